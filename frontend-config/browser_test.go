package frontend_test

import (
	"context"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	frontend "kernelgw/frontend-config"
)

// startStock starts a jupyter_server for what is not the front end's, and
// returns a proxy to it.
func startStock(t *testing.T, base string) http.Handler {
	t.Helper()
	python, err := filepath.Abs("../.cache/venv/stock/bin/python")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(python); err != nil {
		t.Skip("!! NOT CHECKED: the pages in a browser: no stock server; run make clients")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	listener.Close()
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, "hello.txt"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := exec.Command(python, "-m", "jupyter_server", "--no-browser", "--allow-root", "--port", port, "--ServerApp.port_retries=0",
		"--ServerApp.base_url="+base, "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True", "--ServerApp.allow_origin=*", "--ServerApp.root_dir="+home)
	server.Env = append(os.Environ(), "HOME="+home, "JUPYTER_CONFIG_DIR="+home+"/.jupyter", "PATH="+filepath.Dir(python)+":"+os.Getenv("PATH"))
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(os.Interrupt)
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	target := &url.URL{Scheme: "http", Host: address}
	deadline := time.Now().Add(time.Minute)
	for {
		response, err := http.Get(target.String() + base + "api")
		if err == nil {
			response.Body.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the stock server does not answer: %v", err)
		}
		time.Sleep(100 * time.Millisecond) // another process: nothing to await but its port
	}
	http.DefaultClient.CloseIdleConnections()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &httputil.ReverseProxy{Transport: transport, ErrorLog: stdlog.New(io.Discard, "", 0), Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
}

// browse starts Chromium.
func browse(t *testing.T) context.Context {
	t.Helper()
	chromium, err := filepath.Abs("../.cache/chromium/bin/chromium")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(chromium); err != nil {
		t.Skip("!! NOT CHECKED: the pages in a browser: no Chromium; run make clients")
	}
	allocator, cancelAllocator := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.WindowSize(1280, 900), chromedp.UserDataDir(t.TempDir()))...)
	t.Cleanup(cancelAllocator)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx)
		cancel()
	})
	return ctx
}

// complaints are errors of the console, and answers that are none.
type complaints struct {
	mu   sync.Mutex
	list []string
}

func (c *complaints) add(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, fmt.Sprintf(format, args...))
}

func (c *complaints) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.list
	c.list = nil
	return list
}

func listen(t *testing.T, ctx context.Context) *complaints {
	t.Helper()
	c := &complaints{}
	err := chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			text := e.ExceptionDetails.Text
			if e.ExceptionDetails.Exception != nil {
				text += " " + e.ExceptionDetails.Exception.Description
			}
			c.add("exception: %s", text)
		case *runtime.EventConsoleAPICalled:
			if e.Type == "error" {
				var text []string
				for _, arg := range e.Args {
					text = append(text, string(arg.Value)+arg.Description)
				}
				c.add("console: %s", strings.Join(text, " "))
			}
		case *log.EventEntryAdded:
			if e.Entry.Level == "error" {
				c.add("log: %s %s", e.Entry.Text, e.Entry.URL)
			}
		case *network.EventResponseReceived:
			if e.Response.Status >= 400 {
				c.add("response: %d %s", e.Response.Status, e.Response.URL)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ofNotebook is a mistake of Notebook 7.6.5 that a stock server shows, too: its
// shortcuts are asked for before their settings are loaded.
const ofNotebook = "(reading 'schema')\n"

// The real pages come up in a real browser, with a stock server for kernels and
// files, and complain of nothing.
func TestPagesComeUpInChromium(t *testing.T) {
	const base = "/prefix/w/team/"
	d := newDocuments()
	f := newFrontend(t, frontend.Options{Documents: d, Terminals: true, PageConfig: map[string]any{"exposeAppInBrowser": true}})
	server := httptest.NewServer(&site{f: f, at: frontend.At{Base: base, User: "local:alice", Workspace: "team"}, rest: startStock(t, base)})
	t.Cleanup(server.Close)
	ctx, cancel := context.WithTimeout(browse(t), 8*time.Minute)
	t.Cleanup(cancel)
	complained := listen(t, ctx)
	for _, page := range []struct{ path, ready string }{
		{"lab", ".jp-Launcher-content"},
		{"lab/tree/hello.txt", ".jp-FileEditor .cm-content"},
		{"doc/tree/hello.txt", ".jp-FileEditor .cm-content"},
		{"tree", ".jp-DirListing-item"},
		{"edit/hello.txt", ".jp-FileEditor .cm-content"},
	} {
		started := time.Now()
		if err := chromedp.Do(ctx, chromedp.Navigate(server.URL+base+page.path+"?token=s3cret"), chromedp.WaitVisible(chromedp.CSS(page.ready))); err != nil {
			t.Fatalf("%s does not come up: %v %q", page.path, err, complained.take())
		}
		t.Logf("%s: ready after %v", page.path, time.Since(started).Round(time.Millisecond))
		for _, c := range complained.take() {
			if strings.Contains(c, "/static/notebook/notebook_core.") && strings.Contains(c, ofNotebook) {
				continue
			}
			t.Errorf("%s: %s", page.path, c)
		}
		type look struct {
			Extensions      []string
			Location, Title string
		}
		seen, err := chromedp.Run(ctx, chromedp.Evaluate[look](`({Extensions: Object.keys(window._JUPYTERLAB), Location: location.href, Title: document.title})`))
		if err != nil {
			t.Fatal(err)
		}
		if all := strings.Join(seen.Extensions, " "); !strings.Contains(all, "@jupyter-widgets/jupyterlab-manager") {
			t.Errorf("%s: the extensions are %s", page.path, all)
		}
		if strings.Contains(seen.Location, "s3cret") {
			t.Errorf("%s: the address bar has the token: %s", page.path, seen.Location)
		}
	}
	// A theme survives a reload, through the settings of the user.
	light, dark := chromedp.CSS(`[data-jp-theme-name="JupyterLab Light"]`), chromedp.CSS(`[data-jp-theme-name="JupyterLab Dark"]`)
	if err := chromedp.Do(ctx,
		chromedp.Navigate(server.URL+base+"lab"), chromedp.WaitVisible(light),
		chromedp.Evaluate[chromedp.Void](`jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})`),
		chromedp.WaitVisible(dark), chromedp.Reload(), chromedp.WaitVisible(dark),
	); err != nil {
		t.Fatalf("the theme does not survive: %v %q", err, complained.take())
	}
	for _, c := range complained.take() {
		t.Errorf("theme: %s", c)
	}
	if text, _, err := d.GetDocument(context.Background(), "local:alice", "settings/@jupyterlab/apputils-extension:themes"); err != nil || !strings.Contains(string(text), "JupyterLab Dark") {
		t.Errorf("the setting is %q, %v", text, err)
	}
	if dir := os.Getenv("KERNELGW_TEST_SCREENSHOTS"); dir != "" {
		picture, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "frontend.png"), picture, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
