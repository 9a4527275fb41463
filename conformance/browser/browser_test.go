// Package browser drives the pages of JupyterLab and Notebook 7 in a real
// Chromium, as a person does, and compares what the browser complains of with
// what it complains of at a stock server. scripts/setup-chromium.sh and
// scripts/setup-clients.sh install what it needs. A picture of each step is
// kept in KERNELGW_TEST_ARTIFACTS, .cache/artifacts/browser by default. It
// imports none of our packages.
package browser

import (
	"os"
	"path/filepath"
	"testing"

	"kernelgw/conformance/servers"
)

// story is a person's work with one server. base is where its files can be
// prepared and looked at.
type story func(t *testing.T, b *tab, p *servers.Process)

func artifacts(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("KERNELGW_TEST_ARTIFACTS"); dir != "" {
		return dir
	}
	root, err := servers.Root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, ".cache", "artifacts", "browser")
}

// compare tells a story at a stock JupyterLab and at kernelgw. The browser may
// complain of nothing at ours that it does not complain of at the other.
func compare(t *testing.T, name string, tell story) {
	theirs, ours := newProblems(), newProblems()
	told := 0
	t.Run("stock", func(t *testing.T) {
		p, err := servers.Lab(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := p.Stop(); err != nil { // its log may hold tokens: it is not ours
				t.Error(err)
			}
		})
		tell(t, launch(t, filepath.Join(artifacts(t), name+"-stock"), theirs), p)
		told++
	})
	t.Run("kernelgw", func(t *testing.T) {
		p, err := servers.Kernelgw(t.Context(), servers.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("log of kernelgw:\n%s", p.Log())
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
		tell(t, launch(t, filepath.Join(artifacts(t), name+"-kernelgw-"+servers.Driver()), ours), p)
		told++
	})
	if told < 2 { // one of them failed, or was not asked for
		return
	}
	for _, s := range theirs.list() {
		t.Logf("at the stock server: %s", s)
	}
	complaints, failed := ours.beyond(theirs)
	for _, s := range complaints {
		t.Errorf("the browser complains at kernelgw only: %s", s)
	}
	for _, s := range failed {
		t.Errorf("a request fails at kernelgw only: %s", s)
	}
}
