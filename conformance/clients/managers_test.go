package clients

import (
	"testing"

	"kernelgw/conformance/servers"
)

func TestJupyterLabServicesOfFilesSettingsAndTerminals(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) *servers.Process{
		"kernelgw": func(t *testing.T) *servers.Process { return servers.ForTest(t, servers.Options{}) },
		"stock":    func(t *testing.T) *servers.Process { return lab(t, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := run(t, server(start(t)), "managers.cjs")
			for _, step := range []string{"contents", "settings", "workspaces", "terminals", "events", "done"} {
				s.event(t, step)
			}
			s.done(t)
		})
	}
}
