package s3embed_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A full disk is told, takes nothing that was acknowledged, and is usable again
// when there is room.
func TestAFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT CHECKED: a full disk; needs root to mount")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("NOT CHECKED: a full disk; no tmpfs here: %v: %s", err, out)
	}
	t.Cleanup(func() { // after the server's
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	_, c := start(t, dir)
	acknowledged := map[string]string{}
	full := false
	for i := 0; i < 20 && !full; i++ {
		key := fmt.Sprint("k", i%3)
		version, err := c.put(key, strings.Repeat(fmt.Sprint(i%10), 2<<20))
		if full = err != nil; full {
			wantCode(t, "a put on a full disk", err, "InsufficientStorage")
		} else {
			acknowledged[version] = key + fmt.Sprint(i%10)
		}
	}
	if !full {
		t.Fatal("the disk of 16 MiB never was full")
	}
	acknowledged[c.mustPut("k9", "x")] = "k9x" // what is small has room still
	check := func() {
		t.Helper()
		for version, want := range acknowledged {
			got, err := c.read(want[:2], version)
			if err != nil || len(got) != 2<<20 && want != "k9x" || got[:1] != want[2:] {
				t.Errorf("version %s of %s has %d bytes, %v", version, want[:2], len(got), err)
			}
		}
	}
	check()
	freed := 0
	for version, key := range acknowledged {
		if freed++; freed > 3 {
			break
		}
		c.delete(key[:2], version)
		delete(acknowledged, version)
	}
	acknowledged[c.mustPut("k9", strings.Repeat("9", 2<<20))] = "k99"
	check()
}
