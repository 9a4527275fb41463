package conformance

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"kernelgw/conformance/probe"
	"kernelgw/conformance/servers"
)

// What a cell puts out when its tab was closed is found in the saved notebook
// (jupyter/notebook issue 641, open since 2015). Stock servers lose it.

// document is a saved notebook of code cells that somebody has opened, as JupyterLab
// does. The id of a cell is c and its number.
type document struct {
	*probe.Socket
	s       *target
	path    string
	session string // session_id of the WebSocket
	kernel  string
	sources []string
}

func openDocument(t testing.TB, s *target, sources ...string) *document {
	t.Helper()
	d := &document{s: s, path: folder(t, s) + "/day ü.ipynb", session: probe.ID(), sources: sources}
	d.save(t)
	x := newSession(t, s, map[string]any{"path": d.path, "type": "notebook", "name": "day ü.ipynb"})
	d.kernel = x.Kernel.ID
	d.Socket = s.Dial(t, d.kernel, probe.Dialing{Session: d.session})
	return d
}

// save saves the notebook without outputs, and returns the status.
func (d *document) save(t testing.TB, edits ...probe.Edit) int {
	t.Helper()
	cells := make([]any, 0, len(d.sources))
	for i, source := range d.sources {
		cells = append(cells, map[string]any{
			"cell_type": "code", "id": fmt.Sprint("c", i), "metadata": map[string]any{}, "source": source, "execution_count": nil, "outputs": []any{},
		})
	}
	notebook := map[string]any{"nbformat": 4, "nbformat_minor": 5, "metadata": map[string]any{}, "cells": cells}
	body := map[string]any{"type": "notebook", "format": "json", "content": notebook}
	return d.s.Do(t, "PUT", contentsAt(d.path), body, edits...).Want(t, 200, 201, 412).Status
}

// run asks the kernel to run a cell, as JupyterLab does.
func (d *document) run(t testing.TB, cell int) (id string) {
	t.Helper()
	return d.Send(t, probe.Outgoing{
		Channel: "shell", Type: "execute_request", Content: probe.ExecuteContent(d.sources[cell]),
		Metadata: map[string]any{"cellId": fmt.Sprint("c", cell), "deletedCells": []any{}},
	})
}

// printsFirst waits until something has been printed.
func (d *document) printsFirst(t testing.TB) {
	t.Helper()
	d.Wait(t, probe.Patience, "output", func(m probe.Message) bool { return m.Header.MsgType == "stream" })
}

type savedCell struct {
	Source         string
	ExecutionCount *int `json:"execution_count"`
	Outputs        []struct {
		OutputType string `json:"output_type"`
		Text       string
		Ename      string
		Data       map[string]any
	}
}

// shows says what is saved of a cell, in few words.
func (c savedCell) shows() string {
	all := "[ ]"
	if c.ExecutionCount != nil {
		all = fmt.Sprintf("[%d]", *c.ExecutionCount)
	}
	for _, o := range c.Outputs {
		all += " " + o.OutputType + ":" + strings.ReplaceAll(o.Text, "\n", "|") + o.Ename
	}
	return all
}

func (d *document) saved(t testing.TB) []savedCell {
	t.Helper()
	var model struct{ Content struct{ Cells []savedCell } }
	d.s.Do(t, "GET", contentsAt(d.path)+"?type=notebook&content=1", nil).Want(t, 200).Decode(t, &model)
	return model.Content.Cells
}

// isSaved waits until a cell is saved as wanted.
func (d *document) isSaved(t testing.TB, cell int, want string) {
	t.Helper()
	var got string
	for deadline := time.Now().Add(probe.Patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if got = d.saved(t)[cell].shows(); got == want {
			return
		}
	}
	t.Fatalf("cell %d of the notebook has %.500s, want %.500s", cell, got, want)
}

// numbered is a cell that prints so many lines, and how they are saved.
func numbered(lines int, pause float64) (source, saved string) {
	var all strings.Builder
	for i := range lines {
		fmt.Fprintf(&all, "line %d|", i)
	}
	return fmt.Sprintf("import time\nfor i in range(%d):\n    print('line', i, flush=True)\n    time.sleep(%g)", lines, pause), "stream:" + all.String()
}

func TestOutputsOfAClosedTabAreInTheNotebook(t *testing.T) {
	s := own(t, servers.Options{})
	source, lines := numbered(50, 0.05)

	t.Run("every line once, and errors", func(t *testing.T) {
		t.Parallel()
		d := openDocument(t, s, source, "print('before'); 1/0", "print('never')")
		for i := range d.sources {
			d.run(t, i)
		}
		d.printsFirst(t)
		d.Close()
		d.isSaved(t, 0, "[1] "+lines)
		d.isSaved(t, 1, "[2] stream:before| error:ZeroDivisionError")
		if got := d.saved(t)[2].shows(); got != "[ ]" {
			t.Errorf("a cell that was given up because of the error before has %s", got)
		}
		list := versions(t, s, d.path)
		if len(list) < 2 || list[0].Author != "kernel output" || list[0].Source != "output" {
			t.Errorf("versions %+v", list)
		}
	})
	t.Run("another run replaces them", func(t *testing.T) {
		t.Parallel()
		d := openDocument(t, s, "import time; n = globals().get('n', 0) + 1; print('run', n, flush=True); time.sleep(0.5); print('end')")
		for n := range 2 {
			d.run(t, 0)
			d.printsFirst(t)
			d.Close()
			d.isSaved(t, 0, fmt.Sprintf("[%d] stream:run %d|end|", n+1, n+1))
			d.Socket = s.Dial(t, d.kernel, probe.Dialing{Session: probe.ID()})
		}
	})
	t.Run("an edited cell stays", func(t *testing.T) {
		t.Parallel()
		d := openDocument(t, s, source, source)
		d.run(t, 0)
		d.run(t, 1)
		d.printsFirst(t)
		d.sources[0] = "# edited\n" + d.sources[0]
		d.save(t)
		d.Close()
		d.isSaved(t, 1, "[2] "+lines)
		if got := d.saved(t)[0]; got.shows() != "[ ]" || got.Source != d.sources[0] {
			t.Errorf("the edited cell is %+v", got)
		}
	})
	t.Run("what others save stays", func(t *testing.T) {
		t.Parallel()
		d := openDocument(t, s, source)
		d.run(t, 0)
		d.printsFirst(t)
		d.Close()
		note := ""                                                   // that was saved last
		for n := 0; d.saved(t)[0].shows() == "[ ]" && n < 200; n++ { // somebody writes on
			seen := s.Do(t, "GET", contentsAt(d.path)+"?content=0", nil).Want(t, 200).Header.Get("ETag")
			if d.saved(t)[0].shows() != "[ ]" {
				break
			}
			d.sources = append(d.sources[:1], fmt.Sprintf("note = %d", n))
			if d.save(t, probe.With("If-Match", seen)) == 200 {
				note = d.sources[1]
			}
			time.Sleep(100 * time.Millisecond)
		}
		d.isSaved(t, 0, "[1] "+lines)
		if got := d.saved(t)[1].Source; got != note || note == "" {
			t.Errorf("the other cell is %q, want %q", got, note)
		}
	})
	t.Run("a client that stays or comes back saves its own", func(t *testing.T) {
		t.Parallel()
		stays, back, left := openDocument(t, s, source), openDocument(t, s, source), openDocument(t, s, source)
		back.run(t, 0)
		back.printsFirst(t)
		back.Close() // while it runs, for a moment
		back.Socket = s.Dial(t, back.kernel, probe.Dialing{Session: back.session})
		stays.Finish(t, stays.run(t, 0), probe.Patience)
		left.run(t, 0)
		left.printsFirst(t)
		left.Close()
		left.isSaved(t, 0, "[1] "+lines)
		for _, d := range []*document{stays, back} {
			if list := versions(t, s, d.path); len(list) != 1 {
				t.Errorf("the notebook was written: %+v", list)
			}
		}
	})
	t.Run("a kernel that is shut down", func(t *testing.T) {
		t.Parallel()
		d := openDocument(t, s, "import time; print('so far', flush=True); time.sleep(1000)")
		d.run(t, 0)
		d.printsFirst(t)
		d.Close()
		eventually(t, s, d.kernel, "without sockets", probe.Patience, func(k probe.Kernel) bool { return *k.Connections == 0 })
		s.Do(t, "DELETE", "api/kernels/"+d.kernel, nil).Want(t, 204)
		// Perhaps with a line that says that the kernel ended before the cell.
		if got := d.saved(t)[0].shows(); !strings.HasPrefix(got, "[1] stream:so far|") {
			t.Errorf("the cell has %s", got)
		}
	})
	t.Run("what was got and not saved", func(t *testing.T) {
		t.Parallel()
		time.Sleep(3 * time.Second) // for the notebook to be older than the run, in whole seconds
		d := openDocument(t, s, "print('got')", "print('got and saved')")
		time.Sleep(4 * time.Second)
		d.Finish(t, d.run(t, 0), probe.Patience)
		time.Sleep(300 * time.Millisecond) // the time to acknowledge, which no client can do once it has closed
		d.Close()
		d.isSaved(t, 0, "[1] stream:got|")
	})
	t.Run("a running cell from time to time", func(t *testing.T) {
		t.Parallel()
		d := openDocument(t, s, "import time\nfor i in range(600):\n    print('line', i, flush=True)\n    time.sleep(0.1)")
		d.run(t, 0)
		d.printsFirst(t)
		d.Close()
		var shown []string
		for deadline := time.Now().Add(probe.Patience); len(shown) < 2; time.Sleep(100 * time.Millisecond) {
			if got := d.saved(t)[0].shows(); got != "[ ]" && (len(shown) == 0 || shown[len(shown)-1] != got) {
				shown = append(shown, got)
			}
			if time.Now().After(deadline) {
				t.Fatalf("saved while it ran: %.300s", shown)
			}
		}
		if !strings.HasPrefix(shown[1], shown[0]) {
			t.Errorf("first %.300s, then %.300s", shown[0], shown[1])
		}
		// The one of before goes as soon as the next is there.
		for deadline := time.Now().Add(probe.Patience); len(versions(t, s, d.path)) > 2; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("each save of a part of the same output is kept: %+v", versions(t, s, d.path))
			}
		}
	})
}

func TestOutputsOfAClosedTabOutliveTheGateway(t *testing.T) {
	t.Parallel()
	s := own(t, servers.Options{})
	source, lines := numbered(60, 0.05)
	d := openDocument(t, s, source)
	d.run(t, 0)
	d.printsFirst(t)
	d.Close()
	eventually(t, s, d.kernel, "without sockets", probe.Patience, func(k probe.Kernel) bool { return *k.Connections == 0 })
	if err := s.process.Kill(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(4 * time.Second) // the cell ends, and there is no gateway to save what it put out
	if err := s.process.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.isSaved(t, 0, "[1] "+lines)
	if list := versions(t, s, d.path); len(list) != 2 {
		t.Errorf("%d versions, want the one of before and that with the output", len(list))
	}
}

// A second user of the kernel is somebody whose output its owner need not trust.
func TestOutputsOfOthersAreNotTrusted(t *testing.T) {
	t.Parallel()
	users := []servers.User{{Name: "ada", Token: probe.ID() + probe.ID(), Workspaces: []string{"team"}}, {Name: "bob", Token: probe.ID() + probe.ID(), Workspaces: []string{"team"}}}
	s := own(t, servers.Options{Users: users})
	d := openDocument(t, s, "from IPython.display import HTML; HTML('<b>x</b>')")
	trusted := func() bool {
		var model struct {
			Content struct {
				Cells []struct {
					Metadata struct{ Trusted bool }
					Outputs  []json.RawMessage
				}
			}
		}
		for deadline := time.Now().Add(probe.Patience); ; time.Sleep(100 * time.Millisecond) {
			d.s.Do(t, "GET", contentsAt(d.path)+"?type=notebook&content=1", nil).Want(t, 200).Decode(t, &model)
			if c := model.Content.Cells[0]; len(c.Outputs) > 0 {
				return c.Metadata.Trusted
			}
			if time.Now().After(deadline) {
				t.Fatal("no output was saved")
			}
		}
	}
	d.run(t, 0)
	d.Close()
	if !trusted() {
		t.Error("what its owner ran is not trusted")
	}
	d.save(t)
	d.Socket = s.Dial(t, d.kernel, probe.Dialing{Session: probe.ID(), Token: users[1].Token})
	d.run(t, 0)
	d.Close()
	if trusted() {
		t.Error("what another ran is trusted")
	}
}
