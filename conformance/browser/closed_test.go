package browser

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"kernelgw/conformance/probe"
	"kernelgw/conformance/servers"
)

// Who closes the tab in the middle of a long cell finds all of its output in the
// notebook later (jupyter/notebook issue 641). A stock server loses it.
func TestLabFindsTheOutputOfAClosedTab(t *testing.T) {
	for _, driver := range drivers() {
		t.Run("kernelgw-"+driver, func(t *testing.T) {
			p := servers.ForTest(t, servers.Options{Driver: driver})
			b := launch(t, filepath.Join(artifacts(t), "closed-tab-kernelgw-"+driver), newProblems())
			b.goTo(t, p.Base+"lab?token="+p.Token)
			closesATab(t, b, p)
		})
	}
}

const (
	longLines = 300
	longCell  = `import time
import matplotlib.pyplot as plt
for i in range(300):
    print('line', i, flush=True)
    time.sleep(0.06)
plt.plot([1, 4, 2]); plt.title('a picture'); plt.show()
print('the end')`
)

func closesATab(t *testing.T, b *tab, p *servers.Process) {
	p.Do(t, "PUT", "api/contents/closed.ipynb", notebook(
		codeCell("first", "print('quick', 1 + 1)"), codeCell("long", longCell), codeCell("html", "from IPython.display import HTML; HTML('<b id=bold>bold</b>')"),
	)).Want(t, 201)

	working := b.another(t)
	working.goTo(t, p.Base+"lab/workspaces/working/tree/closed.ipynb")
	working.untilWithin(t, 3*time.Minute, "the notebook", `document.querySelector('.jp-NotebookPanel')`)
	working.untilWithin(t, 3*time.Minute, "an idle kernel", idle)
	working.menu(t, "Run", "runmenu:run-all", "")
	working.untilWithin(t, 3*time.Minute, "output", outputs+`.includes('line 5')`)
	working.picture(t, "before-the-tab-is-closed")
	if _, err := chromedp.Call(working.ctx, page.Close, cdp.Empty{}); err != nil {
		t.Fatal(err)
	}
	kernel := theKernel(t, &p.Server)
	eventually(t, "the tab to be closed", func() bool { return *theKernel(t, &p.Server).Connections == 0 })
	if kernel.ExecutionState != "busy" {
		t.Errorf("the kernel is %s when the tab is closed", kernel.ExecutionState)
	}
	eventually(t, "the cells to end", func() bool { return theKernel(t, &p.Server).ExecutionState == "idle" })
	eventually(t, "the output in the file", func() bool {
		return strings.Contains(string(p.Do(t, "GET", "files/closed.ipynb", nil).Want(t, 200).Body), "id=bold>bold")
	})

	again := b.another(t)
	again.goTo(t, p.Base+"lab/workspaces/again/tree/closed.ipynb")
	again.untilWithin(t, 3*time.Minute, "the notebook", `document.querySelector('.jp-NotebookPanel')`)
	again.sees(t, "the end")
	again.sees(t, "quick 2") // it ended before the tab was closed, and was not saved
	again.until(t, "every line once", fmt.Sprintf(
		`(all => Array.from({length: %d}, (_, i) => all.filter(l => l === 'line ' + i).length).every(n => n === 1))(%s.split('\n'))`, longLines, outputs))
	again.until(t, "the picture", `Array.from(document.querySelectorAll('.jp-OutputArea-output img')).filter(i => i.complete && i.naturalWidth > 200).length === 1`)
	again.until(t, "the number of the cell", find(".jp-InputPrompt", "[2]:"))
	again.untilWithin(t, 3*time.Minute, "an idle kernel", idle)
	again.picture(t, "opened-again")

	again.run(t, "print('and', 'on')", "and on")
	again.press(t, "s", kb.ModifierCtrl)
	again.until(t, "a saved notebook", `!document.querySelector('#jp-main-dock-panel .jp-mod-dirty')`)
	if eval[bool](t, again, `Boolean(document.querySelector('.jp-Dialog'))`) {
		t.Errorf("it asks: %s", eval[string](t, again, `document.querySelector('.jp-Dialog').textContent`))
	}
	again.picture(t, "saved")
	stored := string(p.Do(t, "GET", "files/closed.ipynb", nil).Want(t, 200).Body)
	for _, want := range []string{`"and on`, "line 299", `"the end`, "image/png"} {
		if strings.Count(stored, want) != 1 {
			t.Errorf("the file has %q %d times", want, strings.Count(stored, want))
		}
	}
}

// codeCell is a cell of a notebook that was not run.
func codeCell(id, source string) map[string]any {
	return map[string]any{"cell_type": "code", "id": id, "metadata": map[string]any{}, "source": source, "execution_count": nil, "outputs": []any{}}
}

// notebook is what saves a notebook of these cells.
func notebook(cells ...map[string]any) map[string]any {
	return map[string]any{"type": "notebook", "format": "json", "content": map[string]any{
		"nbformat": 4, "nbformat_minor": 5, "cells": cells,
		"metadata": map[string]any{"kernelspec": map[string]any{"name": "python3", "display_name": "Python 3", "language": "python"}},
	}}
}

// theKernel is the only kernel of a server.
func theKernel(t *testing.T, s *probe.Server) probe.Kernel {
	t.Helper()
	var all []probe.Kernel
	s.Do(t, "GET", "api/kernels", nil).Want(t, 200).Decode(t, &all)
	if len(all) != 1 {
		t.Fatalf("the kernels are %+v", all)
	}
	return all[0]
}
