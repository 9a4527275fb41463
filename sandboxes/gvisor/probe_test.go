package gvisor_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kernelgw/sandboxes/gvisor"
)

func TestProbeStartsASandbox(t *testing.T) {
	path := runsc(t)
	r := gvisor.Probe(t.Context(), path)
	if !r.Usable || r.Runsc != path || r.Version == "" || r.BootTime <= 0 {
		t.Errorf("Probe says %+v, want a usable runsc", r)
	}
	if r.Rootless != (os.Geteuid() != 0) {
		t.Errorf("Rootless is %v for uid %d", r.Rootless, os.Geteuid())
	}
	if (r.Cgroups == "") != (r.CgroupsWhy != "") {
		t.Errorf("control groups %q, because %q", r.Cgroups, r.CgroupsWhy)
	}
	t.Log(r.Detail)
}

func TestProbeSaysWhyNot(t *testing.T) {
	dir := shortTempDir(t)
	for name, script := range map[string]string{
		"fails":         "#!/bin/sh\nexit 3\n",
		"boots-nothing": "#!/bin/sh\ncase $1 in --version) echo runsc version fake;; *) echo no user namespaces for you >&2; exit 1;; esac\n",
		"lies":          "#!/bin/sh\ncase $1 in --version) echo runsc version fake;; esac\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		r := gvisor.Probe(t.Context(), path)
		if r.Usable || r.Detail == "" {
			t.Errorf("%s: %+v, want it unusable with a reason", name, r)
		}
		if name == "boots-nothing" && !strings.Contains(r.Detail, "no user namespaces for you") {
			t.Errorf("%s: Detail %q lacks runsc's own words", name, r.Detail)
		}
	}
	if r := gvisor.Probe(t.Context(), filepath.Join(dir, "none")); r.Usable || !strings.Contains(r.Detail, "none") {
		t.Errorf("no runsc: %+v", r)
	}
}
