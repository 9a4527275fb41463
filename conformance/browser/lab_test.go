package browser

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"kernelgw/conformance/probe"
	"kernelgw/conformance/servers"
)

func TestLab(t *testing.T) { compare(t, "lab", dayInLab) }

// dayInLab is what people do in JupyterLab.
func dayInLab(t *testing.T, b *tab, p *servers.Process) {
	b.goTo(t, p.Base+"lab?token="+p.Token)
	b.untilWithin(t, 3*time.Minute, "the launcher", find(".jp-LauncherCard", "Python 3"))
	b.until(t, "the address without the token", `!location.href.includes('token=')`)
	b.picture(t, "launcher")

	b.click(t, `.jp-LauncherCard[data-category="Notebook"]`, "Python 3")
	b.untilWithin(t, 3*time.Minute, "an idle kernel", idle)
	b.picture(t, "new-notebook")

	runsCells(t, b)
	widgets(t, b)
	asks(t, b)
	interruptsAndRestarts(t, b)
	savesAndRestores(t, b, p)
	reloads(t, b)
	upAndDown(t, b, p)
	terminal(t, b, p)
	themeStays(t, b)
	twoTabs(t, b, p)
}

func runsCells(t *testing.T, b *tab) {
	b.start(t, "import time\nfor i in range(6):\n    print('tick', i, flush=True)\n    time.sleep(0.25)\nprint('all', 'ticks')")
	b.sees(t, "tick 1")
	if eval[bool](t, b, outputs+`.includes('all ticks')`) {
		t.Error("the output came at once, and not as it was printed")
	}
	b.sees(t, "all ticks")
	b.picture(t, "streamed-output")

	b.start(t, "import matplotlib.pyplot as plt\nplt.plot([1, 4, 2]); plt.title('a picture'); plt.show()")
	b.untilWithin(t, 3*time.Minute, "the picture", `Array.from(document.querySelectorAll('.jp-OutputArea-output img')).some(i => i.complete && i.naturalWidth > 200)`)
	b.until(t, "an idle kernel", idle)
	b.picture(t, "matplotlib")

	b.run(t, "def broken():\n    return 1 / 0\nbroken()", "ZeroDivisionError")
	b.picture(t, "exception")
	b.run(t, "from IPython.display import HTML; HTML('<b id=bold>bold</b>')", "bold")
}

func widgets(t *testing.T, b *tab) {
	b.start(t, "import ipywidgets\nslider = ipywidgets.IntSlider(value=3, description='volume'); slider")
	b.until(t, "the slider", find(".widget-slider .noUi-handle, .jupyter-widgets .noUi-handle", ""))
	eval[bool](t, b, `(document.querySelector('.noUi-handle').focus(), true)`)
	for range 4 {
		b.press(t, kb.ArrowRight)
	}
	b.until(t, "the slider at 7", `document.querySelector('.widget-readout').textContent === '7'`)
	b.picture(t, "slider")
	b.run(t, "print('volume is', slider.value)", "volume is 7")
	b.start(t, "slider.value = 42; print('set')")
	b.until(t, "the slider at 42", `document.querySelector('.widget-readout').textContent === '42'`)
	b.picture(t, "slider-set-by-a-cell")
}

func asks(t *testing.T, b *tab) {
	b.start(t, "name = input('your name? '); print('hello', name)")
	b.until(t, "the question", find(".jp-Stdin-input", ""))
	b.picture(t, "input")
	b.click(t, ".jp-Stdin-input", "")
	b.insert(t, "Ada")
	b.press(t, kb.Enter)
	b.sees(t, "hello Ada")
}

func interruptsAndRestarts(t *testing.T, b *tab) {
	b.run(t, "print('sleep', 'begins', flush=True); time.sleep(60)", "sleep begins")
	b.menu(t, "Kernel", "kernelmenu:interrupt", "")
	b.sees(t, "KeyboardInterrupt")
	b.picture(t, "interrupted")
	b.menu(t, "Kernel", "kernelmenu:restart", "")
	b.accept(t, "Restart")
	b.untilWithin(t, 3*time.Minute, "an idle kernel", idle)
	b.run(t, "print('name' in globals(), 'after the restart')", "False after the restart")
	b.picture(t, "restarted")
}

func savesAndRestores(t *testing.T, b *tab, p *servers.Process) {
	b.press(t, "s", kb.ModifierCtrl)
	b.accept(t, "Rename and Save") // it asks once for a name
	b.until(t, "a saved notebook", `!document.querySelector('#jp-main-dock-panel .jp-mod-dirty')`)
	b.until(t, "the file in the listing", find(".jp-DirListing-item", "Untitled.ipynb"))

	b.menu(t, "File", "docmanager:rename", "")
	b.until(t, "the dialog", find(".jp-Dialog input", ""))
	eval[bool](t, b, `(document.querySelector('.jp-Dialog input').select(), true)`)
	b.insert(t, "day ü.ipynb")
	b.picture(t, "rename")
	b.accept(t, "Rename")
	b.until(t, "the new name", find(".jp-DirListing-item", "day ü.ipynb"))
	b.until(t, "the new name on the tab", find("#jp-main-dock-panel .lm-TabBar-tab", "day ü.ipynb"))

	// What was done since the save is undone, in the page and in the file.
	body := map[string]any{"type": "notebook", "format": "json", "content": map[string]any{
		"nbformat": 4, "nbformat_minor": 5, "metadata": map[string]any{}, "cells": []any{},
	}}
	p.Do(t, "PUT", "api/contents/day%20%C3%BC.ipynb", body).Want(t, 200)
	b.lastCell(t)
	b.click(t, activeEditor, "")
	b.insert(t, "# to be undone")
	b.menu(t, "File", "docmanager:restore-checkpoint", "")
	b.until(t, "the dialog", find(".jp-Dialog", "heckpoint"))
	b.picture(t, "checkpoint")
	if eval[bool](t, b, `document.querySelector('.jp-Dialog').textContent.includes('Choose a checkpoint')`) {
		b.click(t, ".jp-Dialog button.jp-mod-accept", "Ok") // the newest is chosen already
	}
	b.click(t, ".jp-Dialog button.jp-mod-warn", "Revert")
	b.until(t, "the notebook of the checkpoint", `!document.querySelector('.jp-NotebookPanel').textContent.includes('to be undone')`)
	b.sees(t, "hello Ada")
	eventually(t, "the checkpoint to be stored", func() bool {
		return strings.Contains(string(p.Do(t, "GET", "files/day%20%C3%BC.ipynb", nil).Want(t, 200).Body), "hello Ada")
	})
	b.picture(t, "checkpoint-restored")
}

func reloads(t *testing.T, b *tab) {
	b.do(t, "reload", chromedp.Reload())
	b.untilWithin(t, 3*time.Minute, "the notebook", `document.querySelector('.jp-NotebookPanel')`)
	b.sees(t, "hello Ada")
	b.until(t, "the picture", `Array.from(document.querySelectorAll('.jp-OutputArea-output img')).some(i => i.complete && i.naturalWidth > 200)`)
	b.untilWithin(t, 3*time.Minute, "an idle kernel", idle)
	b.picture(t, "reloaded")
	b.run(t, "print('still', 'here')", "still here")
	b.press(t, "s", kb.ModifierCtrl)
	b.until(t, "a saved notebook", `!document.querySelector('#jp-main-dock-panel .jp-mod-dirty')`)
}

func upAndDown(t *testing.T, b *tab, p *servers.Process) {
	dir := t.TempDir()
	name := "up load.txt"
	text := strings.Repeat("uploaded\n", 300_000) // beyond one chunk
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	b.choose(t, filepath.Join(dir, name), func() {
		b.click(t, `[data-jp-item-name="uploader"] jp-button, .jp-FileBrowser [data-jp-item-name="uploader"] button, [title^="Upload Files"]`, "")
	})
	b.until(t, "the uploaded file", find(".jp-DirListing-item", name))
	eventually(t, "the upload to be stored whole", func() bool {
		answer := p.Do(t, "GET", "files/up%20load.txt", nil)
		return answer.Status == 200 && string(answer.Body) == text
	})
	b.picture(t, "uploaded")

	downloads := filepath.Join(dir, "downloads")
	if _, err := chromedp.CallBrowser(b.ctx, browser.SetDownloadBehavior, browser.SetDownloadBehaviorParams{
		Behavior: browser.SetDownloadBehaviorBehaviorAllow, DownloadPath: downloads,
	}); err != nil {
		t.Fatal(err)
	}
	b.until(t, "the uploaded file in a tab", find("#jp-main-dock-panel .lm-TabBar-tab.jp-mod-current", name))
	b.menu(t, "File", "docmanager:download", "")
	eventually(t, "the download", func() bool {
		got, err := os.ReadFile(filepath.Join(downloads, name))
		return err == nil && string(got) == text
	})
	b.closeTab(t, name)
}

// eventually waits for what cannot be waited for in the page.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	eventuallyWithin(t, patience, what, holds)
}

func eventuallyWithin(t *testing.T, within time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", within, what)
		}
	}
}

func terminal(t *testing.T, b *tab, p *servers.Process) {
	b.click(t, ".lm-MenuBar-item", "File")
	b.click(t, ".lm-Menu-item", "New")
	b.click(t, `.lm-Menu-item[data-command="terminal:create-new"]`, "")
	b.until(t, "the terminal", find(".jp-Terminal .xterm-screen, .jp-Terminal canvas", ""))
	b.click(t, ".jp-Terminal", "")
	name := "from-terminal-" + probe.ID()[:8]
	eventually(t, "a terminal in the list", func() bool {
		return strings.Contains(string(p.Do(t, "GET", "api/terminals", nil).Want(t, 200).Body), `"name"`)
	})
	b.press(t, "echo written $((40+2)) | tee "+name+".txt")
	b.press(t, kb.Enter)
	eventually(t, "the file that the terminal writes", func() bool {
		answer := p.Do(t, "GET", "files/"+name+".txt", nil)
		return answer.Status == 200 && string(answer.Body) == "written 42\n"
	})
	b.picture(t, "terminal")
	b.closeTab(t, "")
}

func themeStays(t *testing.T, b *tab) {
	b.press(t, "c", kb.ModifierCtrl, kb.ModifierShift)
	b.until(t, "the palette", find(".lm-CommandPalette-input", ""))
	b.click(t, ".lm-CommandPalette-input", "")
	b.insert(t, "Use Theme: JupyterLab Dark")
	b.click(t, `.lm-CommandPalette-item[data-command="apputils:change-theme"]`, "Dark")
	dark := `document.body.dataset.jpThemeName === 'JupyterLab Dark'`
	b.until(t, "the dark theme", dark)
	b.picture(t, "dark")
	b.do(t, "reload", chromedp.Reload())
	b.untilWithin(t, 3*time.Minute, "the notebook", `document.querySelector('.jp-NotebookPanel')`)
	b.until(t, "the dark theme after a reload", dark)
	b.sees(t, "still here")
	b.picture(t, "dark-after-reload")
}

func twoTabs(t *testing.T, b *tab, p *servers.Process) {
	other := b.another(t)
	other.goTo(t, p.Base+"lab/workspaces/second/tree/day%20%C3%BC.ipynb")
	other.untilWithin(t, 3*time.Minute, "the notebook", `document.querySelector('.jp-NotebookPanel')`)
	other.sees(t, "still here")
	other.untilWithin(t, 3*time.Minute, "an idle kernel", idle)
	other.run(t, "shared = 'from the second tab'; print(shared)", "from the second tab")
	other.press(t, "s", kb.ModifierCtrl)
	other.until(t, "a saved notebook", `!document.querySelector('#jp-main-dock-panel .jp-mod-dirty')`)
	other.picture(t, "second-tab")

	// The first tab has the same kernel, and is told that the file changed.
	if _, err := chromedp.Call(b.ctx, page.BringToFront, cdp.Empty{}); err != nil {
		t.Fatal(err)
	}
	b.untilWithin(t, 3*time.Minute, "an idle kernel", idle)
	b.run(t, "print('first sees', shared)", "first sees from the second tab")
	b.press(t, "s", kb.ModifierCtrl)
	b.until(t, "the warning", find(".jp-Dialog", "changed"))
	b.picture(t, "changed-in-the-other-tab")
	b.click(t, ".jp-Dialog button", "Overwrite")
	b.until(t, "the dialog to close", `!document.querySelector('.jp-Dialog')`)
	b.until(t, "a saved notebook", `!document.querySelector('#jp-main-dock-panel .jp-mod-dirty')`)
	if stored := p.Do(t, "GET", "files/day%20%C3%BC.ipynb", nil).Want(t, 200).Body; !strings.Contains(string(stored), "first sees from") {
		t.Error("what the first tab saved is not stored")
	}
}
