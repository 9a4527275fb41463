package agent

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kernelgw/jupyter/wsproto"
	"kernelgw/sandboxes/agentapi"
)

func withFiles(o *Options) {
	o.Config.Files = &agentapi.FilesConfig{StartPatience: 50 * time.Millisecond}
}

func TestKernelStartsWithoutALinkAndSaysSo(t *testing.T) {
	r := start(t, withFiles)
	r.status("ready", func(s agentapi.Status) bool { return s.Ready })
	if !strings.Contains(r.log.String(), "starts without its files") {
		t.Error("the log says nothing of it")
	}
	p := r.connect("s1", wsproto.V1)
	shown := false
	for _, m := range p.cell(p.execute("sleep 200")) {
		shown = shown || strings.Contains(m.text(), "not here yet") && m.Content["name"] == "stderr"
	}
	if !shown {
		t.Error("the user is not told in the first cell")
	}
	code, body := r.call(http.MethodGet, "/v1/files")
	if code != http.StatusOK || !strings.Contains(string(body), `"linked":false`) {
		t.Errorf("%d %s", code, body)
	}
	if code, _ := r.call(http.MethodGet, "/v1/files/link"); code != http.StatusUpgradeRequired {
		t.Errorf("a link without an upgrade: %d", code)
	}
}

func TestAgentWithoutFilesHasNoRoutesForThem(t *testing.T) {
	r := start(t, nil)
	r.status("ready", func(s agentapi.Status) bool { return s.Ready })
	for _, route := range fileRoutes {
		if code, _ := r.call(route.method, route.path); code != http.StatusNotFound && code != http.StatusMethodNotAllowed {
			t.Errorf("%s %s: %d", route.method, route.path, code)
		}
	}
}

func TestShutdownDoesNotWaitForFilesThatNobodyBrings(t *testing.T) {
	r := start(t, func(o *Options) { o.Config.Files = &agentapi.FilesConfig{StartPatience: time.Hour} })
	begin := time.Now()
	if code, body := r.call(http.MethodPost, "/v1/kernel/shutdown"); code != http.StatusNoContent {
		t.Errorf("%d %s", code, body)
	}
	<-r.ended
	if took := time.Since(begin); took > 30*time.Second { // of an hour
		t.Errorf("it took %v", took)
	}
}

func TestMissingHomeIsSaid(t *testing.T) {
	dir := t.TempDir()
	l, err := agentapi.ListenUnix(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(Options{
		Config:   agentapi.Config{Token: testToken, Spec: fakeSpec(t), Files: &agentapi.FilesConfig{}},
		Listener: l, Home: filepath.Join(dir, "none"), RuntimeDir: os.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot sync files") {
		t.Errorf("got %v", err)
	}
}
