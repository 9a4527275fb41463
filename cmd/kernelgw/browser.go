package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"kernelgw/contents/s3store"
	frontend "kernelgw/frontend-config"
)

// FrontendConfig says how JupyterLab and Notebook are in the browser.
type FrontendConfig struct {
	FrontendDir        string   `help:"Directory of the browser files of JupyterLab and Notebook, which scripts/setup-frontend.sh makes. Default: .cache/frontend beside the binary's directory." type:"path"`
	AppName            string   `help:"Name in JupyterLab's title bar." default:"JupyterLab"`
	SettingsOverrides  string   `help:"JSON file of defaults of users' settings, in the form of JupyterLab's overrides.json: they win over the gateway's own." type:"path"`
	DisabledExtensions []string `help:"JupyterLab's extensions or plugins that do not start, as in @jupyterlab/debugger-extension, beside those that would not be safe or do not work here."`
	PageConfig         string   `help:"JSON file that is added to the configuration of each page, in the form of JupyterLab's page_config.json: it wins over the gateway's own, what keeps pages safe included." type:"path"`
	CustomCSS          string   `name:"custom-css" help:"CSS file that each page loads." type:"path"`
}

// maxFrontendFile bounds what is read for every page.
const maxFrontendFile = 1 << 20

// options reads the files that are named. Its error names the key that is wrong,
// and what to do about it.
func (c *FrontendConfig) options() (frontend.Options, error) {
	o := frontend.Options{Dir: frontendDir(c), AppName: c.AppName, DisabledExtensions: c.DisabledExtensions}
	if err := readObject("settings_overrides", c.SettingsOverrides, `{"@jupyterlab/apputils-extension:themes": {"theme": "JupyterLab Dark"}}`, &o.Overrides); err != nil {
		return o, err
	}
	if err := readObject("page_config", c.PageConfig, `{"exposeAppInBrowser": false}`, &o.PageConfig); err != nil {
		return o, err
	}
	css, err := readSmall(c.CustomCSS)
	if err != nil {
		return o, fmt.Errorf("custom_css: %w", err)
	}
	o.CustomCSS = string(css)
	return o, nil
}

// validate names the first key that is wrong, and what to do about it.
func (c *FrontendConfig) validate() error {
	_, err := c.options()
	return err
}

// readObject reads a JSON object from a file; no file is none.
func readObject(key, path, example string, into any) error {
	text, err := readSmall(path)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	if text = bytes.TrimSpace(text); path == "" {
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil || text[0] != '{' {
		return fmt.Errorf("%s: %s is not a JSON object like %s (%v)", key, path, example, cmp.Or(err, errors.New("it is something else")))
	}
	return nil
}

// readSmall reads a file; the empty path is an empty one.
func readSmall(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFrontendFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFrontendFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFrontendFile)
	}
	return text, nil
}

func frontendDir(c *FrontendConfig) string { return cmp.Or(c.FrontendDir, besideProgram("frontend")) }

// openFrontend reads the files of JupyterLab for browsers. Where they are not,
// missing says why and what to do, and the gateway serves clients without.
func openFrontend(c *FrontendConfig, store *s3store.Store, log *slog.Logger) (f *frontend.Frontend, missing string, err error) {
	o, err := c.options()
	if err != nil {
		return nil, "", err
	}
	o.Documents, o.Log, o.Terminals, o.IsDirectory = store, log, true, isDirectory(store)
	if f, err = frontend.New(o); err != nil {
		missing = fmt.Sprintf("%v. Run make frontend, or name a directory that scripts/setup-frontend.sh made with --frontend-dir.", err)
		log.Warn("JupyterLab is not served to browsers", "why", missing)
		return nil, missing, nil
	}
	return f, "", nil
}
