package containerd

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestProbeWithoutContainerd(t *testing.T) {
	r := Probe(t.Context(), filepath.Join(t.TempDir(), "containerd.sock"))
	if r.Version != "" || !strings.Contains(r.Problem, "no answer at ") {
		t.Errorf("Probe of nothing: %+v", r)
	}
}
