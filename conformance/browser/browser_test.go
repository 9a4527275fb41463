// Package browser drives the pages of JupyterLab and Notebook 7 in a real
// Chromium, as a person does, and compares what the browser complains of with
// what it complains of at a stock server. scripts/setup-chromium.sh and
// scripts/setup-clients.sh install what it needs. A picture of each step is
// kept in KERNELGW_TEST_ARTIFACTS, .cache/artifacts/browser by default.
// KERNELGW_BROWSER_DRIVERS names several drivers, separated by spaces, to be
// compared with one day at the stock server. It imports none of our packages.
package browser

import (
	"os"
	"path/filepath"
	"strings"
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

// drivers are those that a kernelgw is started with.
func drivers() []string {
	if several := strings.Fields(os.Getenv("KERNELGW_BROWSER_DRIVERS")); len(several) > 0 {
		return several
	}
	return []string{servers.Driver()}
}

// compare tells a story at a stock JupyterLab and at a kernelgw with each driver.
// The browser may complain of nothing at ours that it does not complain of at the
// other.
func compare(t *testing.T, name string, tell story) {
	theirs, toldTheirs := newProblems(), false
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
		toldTheirs = true
	})
	for _, s := range theirs.list() {
		t.Logf("at the stock server: %s", s)
	}
	for _, driver := range drivers() {
		t.Run("kernelgw-"+driver, func(t *testing.T) {
			p, ours := servers.ForTest(t, servers.Options{Driver: driver}), newProblems()
			tell(t, launch(t, filepath.Join(artifacts(t), name+"-kernelgw-"+driver), ours), p)
			if !toldTheirs { // it failed, or was not asked for
				return
			}
			complaints, failed := ours.beyond(theirs)
			for _, s := range complaints {
				t.Errorf("the browser complains at kernelgw only: %s", s)
			}
			for _, s := range failed {
				t.Errorf("a request fails at kernelgw only: %s", s)
			}
		})
	}
}
