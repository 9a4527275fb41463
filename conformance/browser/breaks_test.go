package browser

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"kernelgw/conformance/probe"
	"kernelgw/conformance/servers"
)

// Cells print a line every 10 ms while what is between the page and its kernel
// breaks: the page has every line, in order. KERNELGW_LONG=1 prints for a minute
// and not for 12 s, kills the gateway in sight of the page too, which then waits
// 10 to 30 s of its own accord, and keeps the tab closed for 20 s.
func TestLabHasEveryLineThroughBreaks(t *testing.T) {
	p := servers.ForTest(t, servers.Options{})
	way := servers.WayForTest(t, p, false)
	faults, lines, away := way.Faults(), 1200, 2*time.Second
	if os.Getenv("KERNELGW_LONG") == "" {
		t.Log("!! NOT CHECKED without KERNELGW_LONG=1: a minute of it, and kills of the gateway in sight of the page")
	} else {
		faults = append(faults, servers.Fault{Name: "the gateway is killed in sight", Do: way.Crash})
		lines, away = 6000, 20*time.Second
	}
	b := launch(t, filepath.Join(artifacts(t), "breaks-kernelgw-"+servers.Driver()), newProblems())
	throughBreaks(t, b, way, faults, lines, away)
}

const (
	// One write for a line: a message has whole lines.
	printingCell = "import time\nfor i in range(%d):\n    print(f'line {i}\\n', end='', flush=True)\n    time.sleep(0.01)"
	// It goes on when the tab is closed.
	awaitingCell = "import os\nfor i in range(100 + %d):\n    print(f'more {i}\\n', end='', flush=True)\n    time.sleep(0.01)\n    while i == 100 and not os.path.exists('closed'): time.sleep(0.1)"
)

// followed is the example of docs/clients.md: it comes back by itself.
const followed = `(() => {
	window.followed = '';
	new EventSource('/v1/sessions/%s/stream?last_event_id=0').onmessage = e => {
		const { msg } = JSON.parse(e.data);
		if (msg?.header.msg_type === 'stream' && msg.content.name === 'stdout') window.followed += msg.content.text;
	};
	return true;
})()`

// outputOf is what the page shows of a cell's output.
func outputOf(cell int) string {
	return fmt.Sprintf(`Array.from(document.querySelectorAll('.jp-CodeCell')[%d].querySelectorAll('.jp-OutputArea-output')).map(e => e.textContent).join('')`, cell)
}

// lossless wants the lines of a cell in a text, numbered up to n, in order, and says
// how many came twice.
func lossless(t *testing.T, what, text, word string, n int) (twice int) {
	t.Helper()
	var pieces []probe.Piece
	for line := range strings.Lines(text) {
		if number, is := strings.CutPrefix(line, word+" "); is {
			pieces = append(pieces, probe.Piece{ID: number, Text: number})
		}
	}
	problem, twice := probe.Lossless(pieces, n)
	if problem != "" {
		t.Errorf("%s: %s", what, problem)
	}
	t.Logf("%s: %d lines, %d of them twice", what, n, twice)
	return twice
}

func throughBreaks(t *testing.T, b *tab, way *servers.Way, faults []servers.Fault, lines int, away time.Duration) {
	after := int(away / (10 * time.Millisecond))
	way.Do(t, "PUT", "api/contents/breaks.ipynb", notebook(
		codeCell("printing", fmt.Sprintf(printingCell, lines)), codeCell("awaiting", fmt.Sprintf(awaitingCell, after)),
	)).Want(t, 201)
	working := b.another(t)
	working.goTo(t, way.Base+"lab/tree/breaks.ipynb?token="+way.Token)
	working.untilWithin(t, 3*time.Minute, "the notebook", `document.querySelector('.jp-NotebookPanel')`)
	working.untilWithin(t, 3*time.Minute, "an idle kernel", idle)
	kernel := theKernel(t, &way.Server).ID
	eval[bool](t, working, fmt.Sprintf(followed, kernel))
	working.menu(t, "Run", "runmenu:run-all", "")
	for i, f := range faults {
		enough := fmt.Sprintf(`%s.includes('line %d\n')`, outputOf(0), (i+1)*lines/(len(faults)+2))
		working.untilWithin(t, 2*time.Minute, "more lines", enough)
		if err := f.Do(t.Context()); err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
		t.Log(f.Name)
	}
	working.untilWithin(t, 3*time.Minute, "the next cell's output", outputOf(1)+`.includes('more 99\n')`)
	if twice := lossless(t, "the page", eval[string](t, working, outputOf(0)), "line", lines); twice > len(faults)*128 {
		t.Errorf("%d lines came twice in %d breaks", twice, len(faults))
	}
	working.untilWithin(t, 2*time.Minute, "the events of the next cell", `window.followed.includes('more 99\n')`)
	if lossless(t, "the page's EventSource", eval[string](t, working, `window.followed`), "line", lines) > 0 {
		t.Error("an EventSource got lines twice")
	}
	working.picture(t, "before-the-tab-is-closed")
	if _, err := chromedp.Call(working.ctx, page.Close, cdp.Empty{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the tab to be closed", func() bool { return *theKernel(t, &way.Server).Connections == 0 })
	way.Do(t, "PUT", "api/contents/closed", map[string]any{"type": "file", "format": "text", "content": ""}).Want(t, 201)
	// What the page had and did not save comes last: the tab might have been reloaded.
	eventuallyWithin(t, away+probe.Patience, "the output of both cells in the file", func() bool {
		stored := string(way.Do(t, "GET", "files/breaks.ipynb", nil).Want(t, 200).Body)
		return strings.Contains(stored, fmt.Sprintf(`line %d\n`, lines-1)) && strings.Contains(stored, fmt.Sprintf(`more %d\n`, 100+after-1))
	})

	b.goTo(t, way.Base+"lab/workspaces/again/tree/breaks.ipynb")
	b.untilWithin(t, 3*time.Minute, "the notebook", `document.querySelectorAll('.jp-CodeCell').length === 2`)
	b.until(t, "the end of the output", fmt.Sprintf(`%s.includes('more %d\n')`, outputOf(1), 100+after-1))
	lossless(t, "the page that was opened again, first cell", eval[string](t, b, outputOf(0)), "line", lines)
	lossless(t, "the page that was opened again, second cell", eval[string](t, b, outputOf(1)), "more", 100+after)
	b.picture(t, "opened-again")

	log := streamed(t, way, kernel)
	if lossless(t, "the log, first cell", log, "line", lines)+lossless(t, "the log, second cell", log, "more", 100+after) > 0 {
		t.Error("the log has lines twice")
	}
}

// streamed is what a kernel has printed, by its log.
func streamed(t *testing.T, way *servers.Way, kernel string) string {
	t.Helper()
	var text strings.Builder
	for from, end := "0", false; !end; {
		var got struct {
			Events []struct {
				Msg struct {
					Header struct {
						MsgType string `json:"msg_type"`
					}
					Content struct{ Name, Text string }
				}
			}
			Next string
			End  bool
		}
		way.Do(t, "GET", "v1/sessions/"+kernel+"/output?from="+url.QueryEscape(from), nil).Want(t, 200).Decode(t, &got)
		for _, e := range got.Events {
			if e.Msg.Header.MsgType == "stream" && e.Msg.Content.Name == "stdout" {
				text.WriteString(e.Msg.Content.Text)
			}
		}
		from, end = got.Next, got.End
	}
	return text.String()
}
