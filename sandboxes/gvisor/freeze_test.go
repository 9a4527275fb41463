package gvisor_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"kernelgw/sandboxes"
)

func TestFrozenSandboxStandsStillAndIsDestroyed(t *testing.T) {
	d := newDriver(t, shortTempDir(t))
	b := newBox(t, d, "frozen", sandboxes.Resources{})
	for range 2 {
		if err := d.Freeze(t.Context(), "frozen"); err != nil {
			t.Fatal(err)
		}
	}
	still, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := b.post(still, "/attack", []string{"hello"}); err == nil {
		t.Error("the agent of a frozen sandbox answers")
	}
	for range 2 {
		if err := d.Thaw(t.Context(), "frozen"); err != nil {
			t.Fatal(err)
		}
	}
	b.attack("write", "/home/jovyan/again")
	if err := d.Freeze(t.Context(), "frozen"); err != nil {
		t.Fatal(err)
	}
	if err := d.Destroy(t.Context(), "frozen"); err != nil {
		t.Fatal(err)
	}
	if err := d.Freeze(t.Context(), "frozen"); !errors.Is(err, sandboxes.ErrNotFound) {
		t.Errorf("Freeze after the end: %v", err)
	}
}

func TestLayerTravelsToAnotherSandbox(t *testing.T) {
	d := newDriver(t, shortTempDir(t))
	first := newBox(t, d, "first", sandboxes.Resources{})
	first.attack("write", "/home/jovyan/kept")
	var layer bytes.Buffer
	if err := d.ExportLayer(t.Context(), "first", &layer); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "layer")
	if err := os.WriteFile(file, layer.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	second := newBoxOf(t, d, sandboxes.Spec{ID: "second", Layer: file})
	if got := second.attack("read", "/home/jovyan/kept"); got != "planted" {
		t.Errorf("what the first sandbox wrote is in the second %q", got)
	}
	if got := second.attack("write", "/home/jovyan/new"); got != "written" {
		t.Errorf("the home of the second sandbox: %s", got)
	}
}

func TestLayerThatIsNoneIsRefused(t *testing.T) {
	d := newDriver(t, shortTempDir(t))
	file := filepath.Join(t.TempDir(), "layer")
	if err := os.WriteFile(file, []byte("no zstd at all"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create(t.Context(), sandboxes.Spec{ID: "none", Layer: file}); err == nil {
		t.Error("a sandbox was made from a layer that is none")
	}
	if list, err := d.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("left behind: %v, %v", list, err)
	}
}
