package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	frontend "kernelgw/frontend-config"
)

func TestFilesOfTheOperatorChangeTheFrontEnd(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c := FrontendConfig{
		FrontendDir: dir, AppName: "Our Lab", DisabledExtensions: []string{"@jupyterlab/debugger-extension"},
		SettingsOverrides: write("overrides.json", ` {"a:b": {"theme": "Dark"}}`),
		PageConfig:        write("page_config.json", `{"exposeAppInBrowser": true}`),
		CustomCSS:         write("custom.css", "body{}"),
	}
	got, err := c.options()
	want := frontend.Options{
		Dir: dir, AppName: "Our Lab", DisabledExtensions: []string{"@jupyterlab/debugger-extension"},
		Overrides: map[string]map[string]any{"a:b": {"theme": "Dark"}}, PageConfig: map[string]any{"exposeAppInBrowser": true}, CustomCSS: "body{}",
	}
	ignore := cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "IsDirectory" }, cmp.Ignore())
	if diff := cmp.Diff(want, got, ignore); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}
