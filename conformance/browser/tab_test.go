package browser

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/dom"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"kernelgw/conformance/servers"
)

// patience is how long a page may take to show what is waited for.
const patience = 90 * time.Second

// tab is one page of the browser, used as a person does: by looking, clicking
// and typing.
type tab struct {
	ctx  context.Context
	dir  string // where its pictures go
	seen *problems
	step *int // number of the last picture of the story
}

// launch starts a browser of its own for a test. dir is where pictures and
// downloads go.
func launch(t *testing.T, dir string, seen *problems) *tab {
	t.Helper()
	root, err := servers.Root()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(root, ".cache", "chromium", "bin", "chromium")
	if _, err := os.Stat(program); err != nil {
		t.Fatal("there is no browser: run scripts/setup-chromium.sh")
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	allocator, stop := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program), chromedp.WindowSize(1400, 1000), chromedp.DisableGPU,
		chromedp.UserDataDir(filepath.Join(home, "profile")),
		chromedp.Env("HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home),
	)...)
	t.Cleanup(stop)
	return open(t, allocator, dir, seen, new(int))
}

// another opens a second tab of the same browser.
func (b *tab) another(t *testing.T) *tab { return open(t, b.ctx, b.dir, b.seen, b.step) }

func open(t *testing.T, parent context.Context, dir string, seen *problems, step *int) *tab {
	t.Helper()
	asked := make(chan struct{}, 8)
	ctx, closeTab := chromedp.NewContext(parent, chromedp.WithListener(seen.listen()), chromedp.WithListener(func(event any) {
		if _, ok := event.(*page.EventJavascriptDialogOpening); ok {
			select {
			case asked <- struct{}{}:
			default:
			}
		}
	}))
	done := make(chan struct{})
	t.Cleanup(func() { closeTab(); <-done })
	if err := chromedp.Do(ctx); err != nil {
		close(done)
		t.Fatalf("cannot start the browser: %v", err)
	}
	// Who leaves a page with something unsaved is asked, and means it.
	go func() {
		defer close(done)
		for {
			select {
			case <-asked:
				_, _ = chromedp.Call(ctx, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{Accept: true})
			case <-ctx.Done():
				return
			}
		}
	}()
	b := &tab{ctx: ctx, dir: dir, seen: seen, step: step}
	t.Cleanup(func() {
		if t.Failed() {
			b.picture(t, "failed")
		}
	})
	return b
}

func (b *tab) do(t *testing.T, what string, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// goTo opens a URL and waits until the page has loaded.
func (b *tab) goTo(t *testing.T, url string) {
	t.Helper()
	b.do(t, "open "+url, chromedp.Navigate(url))
}

// picture saves what the page looks like.
func (b *tab) picture(t *testing.T, name string) {
	t.Helper()
	*b.step++
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.WriteFile(filepath.Join(b.dir, fmt.Sprintf("%02d-%s.png", *b.step, name)), png, 0o644)
	}
	if err != nil {
		t.Errorf("cannot take the picture %s: %v", name, err)
	}
}

// eval evaluates an expression in the page.
func eval[T any](t *testing.T, b *tab, expression string) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("%v: %s", err, expression)
	}
	return v
}

// until waits until an expression is true. A page that is being loaded is
// asked again.
func (b *tab) until(t *testing.T, what, expression string) {
	t.Helper()
	b.untilWithin(t, patience, what, expression)
}

func (b *tab) untilWithin(t *testing.T, within time.Duration, what, expression string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, within)
	defer cancel()
	var last error
	for {
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+expression+")"))
		if ok {
			return
		}
		if err != nil && ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("after %v the page does not show %s (%v): %s", within, what, last, expression)
		case <-time.After(40 * time.Millisecond):
		}
	}
}

// js quotes a Go value as an expression.
func js(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only ever strings and numbers
	}
	return string(b)
}

// find is an expression for the first visible element that matches a selector
// and, unless it is "", holds a text.
func find(selector, text string) string {
	return fmt.Sprintf(`Array.from(document.querySelectorAll(%s)).filter(e => e.getClientRects().length > 0 && (e.textContent + (e.title || '')).includes(%s))[0]`, js(selector), js(text))
}

// click waits for an element and clicks into its middle.
func (b *tab) click(t *testing.T, selector, text string) {
	t.Helper()
	b.until(t, selector+" "+text, find(selector, text))
	b.clickElement(t, find(selector, text))
}

func (b *tab) clickElement(t *testing.T, element string) {
	t.Helper()
	at := eval[[]float64](t, b, `(e => { e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect(); return [r.x + r.width/2, r.y + r.height/2]; })(`+element+`)`)
	// Menus choose what the mouse has moved over.
	b.do(t, "click", chromedp.MouseEvent(input.DispatchMouseEventTypeMouseMoved, at[0], at[1]), chromedp.MouseClickXY(at[0], at[1]))
}

// insert puts text where the cursor is, as a paste does.
func (b *tab) insert(t *testing.T, text string) {
	t.Helper()
	if _, err := chromedp.Call(b.ctx, input.InsertText, input.InsertTextParams{Text: text}); err != nil {
		t.Fatalf("cannot type: %v", err)
	}
}

// press presses keys one after the other, together with modifiers. A key
// brings its character along, so that a page that handles the key itself gets
// no character besides, as with a keyboard.
func (b *tab) press(t *testing.T, keys string, modifiers ...chromedp.Modifier) {
	t.Helper()
	var held int64
	for _, m := range modifiers {
		held |= int64(m)
	}
	for _, key := range keys {
		events := kb.Encode(key)
		down, up := *events[0], *events[len(events)-1]
		down.Modifiers |= held
		up.Modifiers |= held
		if len(events) == 3 && held&^int64(kb.ModifierShift) == 0 {
			down.Text, down.UnmodifiedText = events[1].Text, events[1].UnmodifiedText
		}
		for _, event := range []input.DispatchKeyEventParams{down, up} {
			if _, err := chromedp.Call(b.ctx, input.DispatchKeyEvent, event); err != nil {
				t.Fatalf("cannot press a key: %v", err)
			}
		}
	}
}

// menu chooses an entry of the main menu by its command and, unless it is "",
// a part of its text.
func (b *tab) menu(t *testing.T, name, command, text string) {
	t.Helper()
	b.click(t, ".lm-MenuBar-item", name)
	b.click(t, fmt.Sprintf(`.lm-Menu-item[data-command=%s]:not(.lm-mod-disabled)`, js(command)), text)
}

// accept presses the accepting button of a dialog and waits until it is gone.
func (b *tab) accept(t *testing.T, text string) {
	t.Helper()
	b.click(t, ".jp-Dialog button.jp-mod-accept", text)
	b.until(t, "the dialog to close", `!document.querySelector('.jp-Dialog')`)
}

// closeTab closes JupyterLab's current tab, whose title holds a text.
func (b *tab) closeTab(t *testing.T, title string) {
	t.Helper()
	tab := find("#jp-main-dock-panel .lm-TabBar-tab.jp-mod-current", title)
	b.until(t, "the tab "+title, tab)
	b.clickElement(t, tab+`.querySelector('.lm-TabBar-tabCloseIcon')`)
}

// choose gives a file to the file chooser that trigger opens.
func (b *tab) choose(t *testing.T, file string, trigger func()) {
	t.Helper()
	if _, err := chromedp.Call(b.ctx, page.SetInterceptFileChooserDialog, page.SetInterceptFileChooserDialogParams{Enabled: true}); err != nil {
		t.Fatal(err)
	}
	opened := make(chan *page.EventFileChooserOpened, 1)
	if err := chromedp.Listen(b.ctx, func(ev any) {
		if e, ok := ev.(*page.EventFileChooserOpened); ok {
			select {
			case opened <- e:
			default:
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	trigger()
	select {
	case e := <-opened:
		params := dom.SetFileInputFilesParams{Files: []string{file}, BackendNodeID: e.BackendNodeID}
		if _, err := chromedp.Call(b.ctx, dom.SetFileInputFiles, params); err != nil {
			t.Fatalf("cannot choose %s: %v", file, err)
		}
	case <-time.After(patience):
		t.Fatal("no file chooser opened")
	}
}

// The notebook that is in front.
const (
	activeEditor = `.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-Cell.jp-mod-active .cm-content`
	outputs      = `Array.from(document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-OutputArea-output')).map(e => e.textContent).join('\n')`
	idle         = `document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook-ExecutionIndicator[data-status="idle"]') && ` +
		`document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-KernelName').textContent.includes('Python 3') && ` +
		`(!document.querySelector('#jp-main-statusbar') || document.querySelector('#jp-main-statusbar').textContent.includes('| Idle'))`
)

// start writes code into the last cell and runs it, without waiting.
func (b *tab) start(t *testing.T, code string) {
	t.Helper()
	b.lastCell(t)
	b.click(t, activeEditor, "")
	b.insert(t, code)
	first := strings.TrimSpace(strings.SplitN(code, "\n", 2)[0])
	b.until(t, "the typed text", `document.querySelector(`+js(activeEditor)+`).textContent.includes(`+js(first)+`)`)
	b.press(t, kb.Enter, kb.ModifierShift)
}

// lastCell makes an empty last cell the active one.
func (b *tab) lastCell(t *testing.T) {
	t.Helper()
	const last = `Array.from(document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-Cell')).at(-1)`
	// The page moves while outputs are laid out: a click may miss.
	for deadline := time.Now().Add(patience); !eval[bool](t, b, last+`.classList.contains('jp-mod-active')`); {
		if time.Now().After(deadline) {
			t.Fatal("the last cell does not become active")
		}
		b.clickElement(t, last+`.querySelector('.jp-InputPrompt')`)
	}
	if eval[bool](t, b, last+`.querySelector('.cm-content').textContent.trim() !== ''`) {
		b.press(t, "b")
		b.until(t, "a new cell", last+`.querySelector('.cm-content').textContent.trim() === ''`)
	}
}

// run starts a cell and waits until an output holds a text.
func (b *tab) run(t *testing.T, code, wanted string) {
	t.Helper()
	b.start(t, code)
	b.sees(t, wanted)
}

// sees waits until an output of the notebook holds a text.
func (b *tab) sees(t *testing.T, wanted string) {
	t.Helper()
	b.until(t, "the output "+wanted, outputs+`.includes(`+js(wanted)+`)`)
}
