package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// watch notes in the page when it is ready, by the clock that we have, too.
const watch = `(() => {
	const look = () => {
		const card = document.querySelector('.jp-LauncherCard[data-category="Notebook"]');
		const file = document.querySelector('.jp-DirListing-item');
		if (card && file && card.getClientRects().length && file.getClientRects().length) {
			window.benchReadyAt = performance.timeOrigin + performance.now();
		} else {
			requestAnimationFrame(look);
		}
	};
	requestAnimationFrame(look);
})()`

// lab takes the figures of JupyterLab's page once.
func (s subject) lab(ctx context.Context, h *host, p plan, out *figures) error {
	srv, err := s.start(ctx, h)
	if err != nil {
		return err
	}
	defer srv.stop()
	f := srv.filer()
	defer f.http.CloseIdleConnections()
	body := []byte(`{"type":"file","format":"text","content":"to be seen"}`)
	if _, err := f.do(ctx, http.MethodPut, "seen.txt", "", body, http.StatusCreated); err != nil {
		return err
	}
	var first, next []float64
	for i := range 1 + p.visits {
		a, b, err := h.visit(ctx, srv)
		if err != nil {
			return err
		}
		if i > 0 {
			first, next = append(first, a), append(next, b)
		}
	}
	out.add(s, firstVisit, median(first))
	out.add(s, nextVisit, median(next))
	most, err := peak(srv.pid())
	if err != nil {
		return err
	}
	out.add(s, memoryPeak, float64(most)/1024)
	return nil
}

// browser is the program that scripts/setup-chromium.sh makes.
func (h *host) browser() string {
	return filepath.Join(h.root, ".cache", "chromium", "bin", "chromium")
}

// visit opens JupyterLab twice in a browser that has seen nothing, and returns
// how long each took in milliseconds.
func (h *host) visit(ctx context.Context, srv *server) (first, next float64, err error) {
	if _, err := os.Stat(h.browser()); err != nil {
		return 0, 0, errors.New("there is no browser: run scripts/setup-chromium.sh")
	}
	home, err := os.MkdirTemp(h.dir, "browser")
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(home)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ctx, end := chromedp.NewExecAllocator(ctx, append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(h.browser()), chromedp.WindowSize(1400, 1000), chromedp.DisableGPU,
		chromedp.UserDataDir(filepath.Join(home, "profile")),
		chromedp.Env("HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home, "TMPDIR="+home),
	)...)
	defer end()
	ctx, closeTab := chromedp.NewContext(ctx)
	defer closeTab()
	if _, err := chromedp.Call(ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: watch}); err != nil {
		return 0, 0, fmt.Errorf("cannot start the browser: %w", err)
	}
	u := srv.base.JoinPath("lab")
	u.RawQuery = "token=" + token
	if first, err = open(ctx, u.String()); err != nil {
		return 0, 0, err
	}
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
		return 0, 0, err
	}
	u.RawQuery = ""
	next, err = open(ctx, u.String())
	return first, next, err
}

// open opens a page and waits until it is ready.
func open(ctx context.Context, url string) (took float64, err error) {
	start := time.Now()
	if err := chromedp.Do(ctx, chromedp.Navigate(url)); err != nil {
		return 0, fmt.Errorf("cannot open the page: %w", err)
	}
	for {
		at, err := chromedp.Run(ctx, chromedp.Evaluate[float64]("window.benchReadyAt || 0"))
		if err == nil && at > 0 {
			return at - float64(start.UnixMicro())/1000, nil
		}
		select { // a page that is being replaced answers with an error
		case <-ctx.Done():
			return 0, fmt.Errorf("the page did not become ready: %w", errors.Join(ctx.Err(), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
