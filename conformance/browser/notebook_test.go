package browser

import (
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"kernelgw/conformance/servers"
)

func TestNotebook(t *testing.T) { compare(t, "notebook", dayInNotebook) }

// dayInNotebook is what people do in Notebook 7.
func dayInNotebook(t *testing.T, b *tab, p *servers.Process) {
	p.Do(t, "PUT", "api/contents/work", map[string]any{"type": "directory"}).Want(t, 201)
	p.Do(t, "PUT", "api/contents/work/notes.txt", map[string]any{"type": "file", "format": "text", "content": "first line\n"}).Want(t, 201)
	p.Do(t, "PUT", "api/contents/work/book.ipynb", map[string]any{"type": "notebook"}).Want(t, 201)

	b.goTo(t, p.Base+"tree?token="+p.Token)
	b.untilWithin(t, 3*time.Minute, "the directory", find(".jp-DirListing-item", "work"))
	b.picture(t, "tree")
	b.goTo(t, p.Base+"tree/work")
	b.untilWithin(t, 3*time.Minute, "the notebook in the list", find(".jp-DirListing-item", "book.ipynb"))
	b.picture(t, "directory")

	b.goTo(t, p.Base+"notebooks/work/book.ipynb")
	b.accept(t, "Select") // the new notebook names no kernel
	b.untilWithin(t, 3*time.Minute, "an idle kernel", idle)
	b.run(t, "import os; print('in', os.path.basename(os.getcwd()))", "in work")
	b.start(t, "import matplotlib.pyplot as plt\nplt.plot([1, 4, 2]); plt.show()")
	b.untilWithin(t, 3*time.Minute, "the picture", `Array.from(document.querySelectorAll('.jp-OutputArea-output img')).some(i => i.complete && i.naturalWidth > 200)`)
	b.start(t, "import ipywidgets; ipywidgets.IntSlider(value=3)")
	b.until(t, "the slider", find(".jupyter-widgets .noUi-handle", ""))
	b.picture(t, "notebook")
	b.press(t, "s", kb.ModifierCtrl)
	eventually(t, "the notebook to be stored", func() bool {
		return strings.Contains(string(p.Do(t, "GET", "files/work/book.ipynb", nil).Want(t, 200).Body), "in work")
	})
	b.do(t, "reload", chromedp.Reload())
	b.untilWithin(t, 3*time.Minute, "the notebook", `document.querySelector('.jp-NotebookPanel')`)
	b.sees(t, "in work")
	b.untilWithin(t, 3*time.Minute, "an idle kernel", idle)
	b.run(t, "print('again', 'here')", "again here")
	b.picture(t, "reloaded")

	b.goTo(t, p.Base+"edit/work/notes.txt")
	b.untilWithin(t, 3*time.Minute, "the text", find(".jp-FileEditor .cm-content", "first line"))
	b.click(t, ".jp-FileEditor .cm-content", "")
	b.press(t, kb.End, kb.ModifierCtrl)
	b.insert(t, "second line")
	b.press(t, "s", kb.ModifierCtrl)
	eventually(t, "the text to be stored", func() bool {
		return strings.Contains(string(p.Do(t, "GET", "files/work/notes.txt", nil).Want(t, 200).Body), "second line")
	})
	b.picture(t, "editor")

	b.goTo(t, p.Base+"terminals/1")
	b.untilWithin(t, 3*time.Minute, "the terminal", find(".jp-Terminal .xterm-screen, .jp-Terminal canvas", ""))
	b.picture(t, "terminal")
	b.goTo(t, p.Base+"consoles/one")
	b.untilWithin(t, 3*time.Minute, "the console", find(".jp-CodeConsole", ""))
	b.picture(t, "console")
}
