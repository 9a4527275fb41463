package clients

import (
	"path/filepath"
	"regexp"
	"testing"

	"kernelgw/conformance/servers"
)

// TestEscapeNotebook runs docs/escape.ipynb, which anyone can run, in a kernel of
// a driver that isolates.
func TestEscapeNotebook(t *testing.T) {
	t.Parallel()
	if servers.Driver() == "process" {
		t.Skip("driver process isolates nothing, and says so")
	}
	root, err := servers.Root()
	if err != nil {
		t.Fatal(err)
	}
	p := servers.ForTest(t, servers.Options{})
	s := run(t, []string{"JUPYTER_GATEWAY_URL=" + capability(t, &p.Server, "escape")}, "escape.py", filepath.Join(root, "docs", "escape.ipynb"))
	var got struct {
		Attempts string
		Error    *string
	}
	s.next(t, &got)
	s.done(t)
	if got.Error != nil {
		t.Fatal(*got.Error)
	}
	if !regexp.MustCompile(`^\d{3} attempts, 0 got out$`).MatchString(got.Attempts) {
		t.Errorf("the notebook ends with %q", got.Attempts)
	}
}
