package contents_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"kernelgw/contents"
)

func sumOf(source string) string {
	sum := sha256.Sum256([]byte(source))
	return hex.EncodeToString(sum[:])
}

func ran(id, source string, count int, outputs ...string) contents.CellOutputs {
	return contents.CellOutputs{
		ID: id, SourceSHA256: sumOf(source), ExecutionCount: &count, Outputs: json.RawMessage("[" + strings.Join(outputs, ",") + "]"),
	}
}

func stream(text string) string {
	encoded, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	return `{"output_type":"stream","name":"stdout","text":` + string(encoded) + `}`
}

func (s *server) saveOutputs(path string, r contents.OutputsRequest) contents.SavedOutputs {
	s.t.Helper()
	saved, err := s.handlers.SaveOutputs(s.t.Context(), contents.At{Workspace: "w", Path: path, User: "ann", Owner: "ann"}, r)
	if err != nil {
		s.t.Fatal(err)
	}
	return saved
}

func requested(cells ...contents.CellOutputs) contents.OutputsRequest {
	return contents.OutputsRequest{Cells: cells, Own: true}
}

func (s *server) versions(path string) []contents.Version {
	s.t.Helper()
	list, err := s.store.Versions(s.t.Context(), "w", path, "", 0)
	if err != nil {
		s.t.Fatal(err)
	}
	return list
}

func TestOutputsBecomeAVersionOfTheNotebook(t *testing.T) {
	s := serve(t)
	before := "{\n \"metadata\": {\"x\": 1.50}, \"nbformat\": 4, \"nbformat_minor\": 5,\n \"cells\": [ {\"outputs\" : [ ],\t\"id\":\"a\", \"cell_type\":\"code\",\"metadata\":{},\"source\":[\"1\\n\",\"\\u0032\"],\"execution_count\":null }]}"
	s.put("n.ipynb", before)
	saved := s.saveOutputs("n.ipynb", requested(ran("a", "1\n2", 7, stream("x\ny<\n"), rich)))
	if !saved.Cells["a"] || saved.Version == "" {
		t.Errorf("saved %+v", saved)
	}
	want := strings.Replace(before, "[ ]", `[
    {
     "name": "stdout",
     "output_type": "stream",
     "text": [
      "x\n",
      "y<\n"
     ]
    },
    {
     "data": {
      "text/html": [
       "<b>"
      ]
     },
     "metadata": {},
     "output_type": "display_data"
    }
   ]`, 1)
	want = strings.Replace(want, `"execution_count":null`, `"execution_count":7`, 1)
	if got := s.stored("n.ipynb"); got != want {
		t.Errorf("the notebook is\n%s\nwant\n%s", got, want)
	}
	list := s.versions("n.ipynb")
	if len(list) != 2 || list[0].Author != "kernel output" || list[0].Source != "output" || list[0].Entry.Version != saved.Version {
		t.Errorf("versions %+v", list)
	}
	again := s.saveOutputs("n.ipynb", requested(ran("a", "1\n2", 7, stream("x\ny<\n"), rich)))
	if !again.Cells["a"] || again.Version != "" || len(s.versions("n.ipynb")) != 2 {
		t.Errorf("the same outputs once more: %+v, %d versions", again, len(s.versions("n.ipynb")))
	}
}

func TestCellsAreFoundByTheirIDs(t *testing.T) {
	s := serve(t)
	s.put("n.ipynb", notebookOf(codeCell("a", "{}", "")+","+codeCell("b", "{}", "")))
	s.put("old.ipynb", strings.Replace(notebookOf(strings.Replace(codeCell("a", "{}", ""), `"id":"a",`, "", 1)), `_minor":5`, `_minor":4`, 1))
	s.put("bad.ipynb", "{")
	for path, want := range map[string]string{"n.ipynb": "map[a:true]", "old.ipynb": "map[]", "bad.ipynb": "map[]", "none.ipynb": "map[]", "a.txt": "map[]", "../n.ipynb": "map[]"} {
		found, err := s.handlers.FindCells(t.Context(), contents.At{Workspace: "w", Path: path}, []contents.CellOutputs{ran("a", "x", 1), ran("b", "y", 1), ran("c", "x", 1)})
		if err != nil || fmt.Sprint(found) != want {
			t.Errorf("%s: found %v, %v", path, found, err)
		}
	}
	s.store.FailNext("Open", 1, contents.ErrUnavailable)
	if _, err := s.handlers.FindCells(t.Context(), contents.At{Workspace: "w", Path: "n.ipynb"}, []contents.CellOutputs{ran("a", "x", 1)}); !errors.Is(err, contents.ErrUnavailable) {
		t.Errorf("the storage fails: %v", err)
	}
}

func TestCellsThatAreNotWhatWasRunAreLeftAlone(t *testing.T) {
	cell := func(id, source string) string {
		return fmt.Sprintf(`{"cell_type":"code","id":%q,"execution_count":null,"metadata":{},"source":%q,"outputs":[]}`, id, source)
	}
	old := func(cells string) string { return strings.Replace(notebookOf(cells), `_minor":5`, `_minor":4`, 1) }
	noID := func(source string) string { return strings.Replace(cell("z", source), `"id":"z",`, "", 1) }
	bad := `{"output_type":"stream","name":"stdout","text":3}`
	for name, c := range map[string]struct {
		notebook string
		run      contents.CellOutputs
		saved    bool
	}{
		"as it was run":              {notebookOf(cell("a", "x")), ran("a", "x", 1, stream("o")), true},
		"gone":                       {notebookOf(cell("b", "x")), ran("a", "x", 1, stream("o")), false},
		"edited":                     {notebookOf(cell("a", "x ")), ran("a", "x", 1, stream("o")), false},
		"no code":                    {notebookOf(`{"cell_type":"markdown","id":"a","metadata":{},"source":"x"}`), ran("a", "x", 1, stream("o")), false},
		"without outputs":            {notebookOf(`{"cell_type":"code","id":"a","execution_count":1,"metadata":{},"source":"x"}`), ran("a", "x", 1, stream("o")), false},
		"no notebook":                {"{", ran("a", "x", 1, stream("o")), false},
		"nbformat 3":                 {`{"nbformat":3,"nbformat_minor":0,"metadata":{},"worksheets":[{"cells":[{"cell_type":"code","language":"python","outputs":[],"input":"x"}]}]}`, ran("a", "x", 1, stream("o")), false},
		"output against the schema":  {notebookOf(cell("a", "x")), ran("a", "x", 1, bad), false},
		"output that is no JSON":     {notebookOf(cell("a", "x")), ran("a", "x", 1, `{"output_type`), false},
		"output that is not UTF-8":   {notebookOf(cell("a", "x")), ran("a", "x", 1, stream("o")[:20]+"\xff\"}"), false},
		"outputs that are no list":   {notebookOf(cell("a", "x")), contents.CellOutputs{ID: "a", SourceSHA256: sumOf("x"), Outputs: json.RawMessage(`{}`)}, false},
		"outputs that are none":      {notebookOf(cell("a", "x")), contents.CellOutputs{ID: "a", SourceSHA256: sumOf("x")}, false},
		"deep output":                {notebookOf(cell("a", "x")), ran("a", "x", 1, strings.Repeat("[", 2000)+strings.Repeat("]", 2000)), false},
		"nothing put out":            {notebookOf(cell("a", "x")), ran("a", "x", 1), true},
		"no ids, one of that text":   {old(noID("y") + "," + noID("x")), ran("a", "x", 1, stream("o")), true},
		"no ids, two of that text":   {old(noID("x") + "," + noID("x")), ran("a", "x", 1, stream("o")), false},
		"no ids, another is like it": {old(noID("x") + "," + `{"cell_type":"markdown","metadata":{},"source":"x"}`), ran("a", "x", 1, stream("o")), false},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			s.put("n.ipynb", c.notebook)
			saved := s.saveOutputs("n.ipynb", requested(c.run))
			if saved.Cells["a"] != c.saved || (saved.Version != "") != c.saved {
				t.Errorf("saved %+v, want %v", saved, c.saved)
			}
			if changed := s.stored("n.ipynb") != c.notebook; changed != c.saved {
				t.Errorf("the notebook is %s", s.stored("n.ipynb"))
			}
		})
	}
}

func TestOutputsWithoutANotebookAreNoError(t *testing.T) {
	s := serve(t)
	s.mkdir("d.ipynb")
	s.put("a.txt", "x")
	for _, path := range []string{"none.ipynb", "no/such.ipynb", "d.ipynb", "a.txt", "../n.ipynb", "/n.ipynb", ".hidden/n.ipynb", "", "a\x00.ipynb"} {
		if saved := s.saveOutputs(path, requested(ran("a", "x", 1))); len(saved.Cells) != 0 || saved.Version != "" {
			t.Errorf("%q: saved %+v", path, saved)
		}
	}
}

func TestACellThatGotItsIDFromTheServerIsFoundByIt(t *testing.T) {
	s := serve(t)
	s.put("n.ipynb", notebookOf(`{"cell_type":"markdown","metadata":{},"source":"x"},{"cell_type":"code","execution_count":null,"metadata":{},"source":"x","outputs":[]}`))
	id, _ := cellsOf(t, s.api("GET", "n.ipynb", nil).want(200))[1]["id"].(string)
	if saved := s.saveOutputs("n.ipynb", requested(ran(id, "x", 1, stream("o")))); !saved.Cells[id] {
		t.Errorf("cell %q: saved %+v", id, saved)
	}
}

func TestOfCellsWithOneIDTheFirstGetsTheOutputs(t *testing.T) {
	s := serve(t)
	s.put("n.ipynb", notebookOf(codeCell("a", "{}", "")+","+codeCell("a", "{}", "")))
	s.saveOutputs("n.ipynb", requested(ran("a", "x", 1, stream("o"))))
	cells := cellsOf(t, s.api("GET", "n.ipynb", nil).want(200))
	if fmt.Sprint(cells[0]["execution_count"], cells[1]["execution_count"]) != "1 <nil>" {
		t.Errorf("cells %v", cells)
	}
}

func TestOutputsReplaceAVersionThatHadLessOfThem(t *testing.T) {
	s := serve(t)
	s.put("n.ipynb", notebookOf(codeCell("a", "{}", "")))
	first := s.saveOutputs("n.ipynb", requested(ran("a", "x", 1, stream("1\n"))))
	r := requested(ran("a", "x", 1, stream("1\n2\n")))
	r.Replaces = first.Version
	second := s.saveOutputs("n.ipynb", r)
	if list := s.versions("n.ipynb"); len(list) != 2 || list[0].Entry.Version != second.Version {
		t.Errorf("%d versions, want the one of before and the last", len(list))
	}
	s.put("n.ipynb", s.stored("n.ipynb")+" ")
	r = requested(ran("a", "x", 1, stream("1\n2\n3\n")))
	r.Replaces = second.Version
	s.saveOutputs("n.ipynb", r)
	if list := s.versions("n.ipynb"); len(list) != 4 {
		t.Errorf("%d versions: one that somebody else's follows must stay", len(list))
	}
}

// What a client had got of a cell is saved without it only if nobody has saved the
// notebook since: who did, perhaps without the outputs, wants it so.
func TestOutputsThatAClientHadAreSavedUnlessItDidSo(t *testing.T) {
	s := serve(t)
	s.put("n.ipynb", notebookOf(codeCell("a", "{}", "")+","+codeCell("b", "{}", "")))
	saved := s.versions("n.ipynb")[0].Modified
	had := func(id string, ended time.Time) contents.CellOutputs {
		c := ran(id, "x", 1, stream("o"))
		c.Ended, c.Seen = ended, true
		return c
	}
	if got := s.saveOutputs("n.ipynb", requested(had("a", saved.Add(-time.Hour)), had("b", saved))); !got.Cells["a"] || !got.Cells["b"] || got.Version != "" {
		t.Errorf("saved before it was saved: %+v", got)
	}
	if got := s.saveOutputs("n.ipynb", requested(had("a", saved.Add(time.Hour)), had("b", saved))); !got.Cells["a"] || !got.Cells["b"] || got.Version == "" {
		t.Errorf("one ended since: %+v", got)
	}
	cells := cellsOf(t, s.api("GET", "n.ipynb", nil).want(200))
	if fmt.Sprint(cells[0]["execution_count"], cells[1]["execution_count"]) != "1 <nil>" {
		t.Errorf("cells %v", cells)
	}
	// The version with the outputs of the one is no reason to leave out the other's.
	if got := s.saveOutputs("n.ipynb", requested(had("b", saved.Add(time.Hour)))); got.Version == "" {
		t.Errorf("the other ended since, too: %+v", got)
	}
}

// Outputs that nobody had are saved in a notebook that was saved since, but not over
// what somebody put into that cell since.
func TestOutputsThatNobodyHadAreNotPutOverNewerOnes(t *testing.T) {
	cell := func(id, count, outputs string) string {
		return strings.Replace(codeCell(id, "{}", outputs), `"execution_count":null`, `"execution_count":`+count, 1)
	}
	before := notebookOf(cell("a", "1", stream("old")) + "," + cell("b", "2", stream("old")))
	for name, c := range map[string]struct {
		saves []string // by somebody
		ended time.Duration
		want  string // outputs of a
	}{
		"nobody saved":             {[]string{before}, 0, "new"},
		"saved before":             {[]string{before, notebookOf(cell("a", "1", stream("part")) + "," + cell("b", "2", ""))}, time.Hour, "new"},
		"another cell was changed": {[]string{before, notebookOf(cell("a", "1", stream("old")) + "," + cell("b", "9", stream("other")))}, -time.Hour, "new"},
		"the form was changed":     {[]string{before, strings.ReplaceAll(before, `,`, ` , `)}, -time.Hour, "new"},
		"the cell was cleared":     {[]string{before, notebookOf(cell("a", "1", "") + "," + cell("b", "2", ""))}, -time.Hour, ""},
		"the cell was run":         {[]string{before, notebookOf(cell("a", "3", stream("old")) + "," + cell("b", "2", ""))}, -time.Hour, "old"},
		"edited and edited back":   {[]string{strings.ReplaceAll(before, `"x"`, `"y"`), before}, -time.Hour, "old"},
		"made since":               {[]string{before}, -2 * time.Hour, "old"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			for i, text := range c.saves {
				s.put("n.ipynb", text)
				s.store.Age("w", "n.ipynb", time.Duration(90-60*i)*time.Minute)
			}
			run := ran("a", "x", 1, stream("new"))
			run.Ended = time.Now().Add(c.ended)
			if saved := s.saveOutputs("n.ipynb", requested(run)); !saved.Cells["a"] || (saved.Version != "") != (c.want == "new") {
				t.Errorf("saved %+v", saved)
			}
			got := ""
			if outputs, _ := cellsOf(t, s.api("GET", "n.ipynb", nil).want(200))[0]["outputs"].([]any); len(outputs) > 0 {
				got = outputs[0].(map[string]any)["text"].(string)
			}
			if got != c.want {
				t.Errorf("the cell has %q, want %q", got, c.want)
			}
		})
	}
}

func TestTrustOfANotebookWithNewOutputs(t *testing.T) {
	for name, c := range map[string]struct {
		rest    string // outputs of another cell
		trusted bool   // before
		own     bool
		output  string
		want    bool
	}{
		"own output, trusted before":         {rich, true, true, rich, true},
		"own output, not trusted before":     {rich, false, true, rich, false},
		"own output, nothing else there":     {stream("x"), false, true, rich, true},
		"another's output, trusted before":   {rich, true, false, rich, false},
		"another's text, trusted before":     {rich, true, false, stream("x"), true},
		"another's text, not trusted before": {rich, false, false, stream("x"), false},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			s.put("n.ipynb", notebookOf(codeCell("a", "{}", rich)+","+codeCell("b", "{}", c.rest)))
			if c.trusted {
				s.api("POST", "n.ipynb/trust", nil).want(201)
			}
			r := requested(ran("a", "x", 1, c.output))
			r.Own = c.own
			if saved := s.saveOutputs("n.ipynb", r); saved.Version == "" {
				t.Fatal("nothing was written")
			}
			metadata, _ := cellsOf(t, s.api("GET", "n.ipynb", nil).want(200))[0]["metadata"].(map[string]any)
			if metadata["trusted"] != c.want {
				t.Errorf("trusted is %v, want %v", metadata["trusted"], c.want)
			}
		})
	}
}

// What a file says of trust anybody can write, as a kernel that writes the file.
func TestAFileThatSaysThatItIsTrustedIsNot(t *testing.T) {
	for _, own := range []bool{true, false} {
		for name, cells := range map[string]string{
			"another cell":   codeCell("a", "{}", "") + "," + codeCell("b", `{"trusted":true}`, rich),
			"the cell":       codeCell("a", `{"trusted":true}`, "") + "," + codeCell("b", "{}", rich),
			"all cells":      codeCell("a", `{"trusted":true}`, rich) + "," + codeCell("b", `{"trusted":true}`, rich),
			"a flag of each": codeCell("a", `{"trusted":true,"trusted":true}`, rich) + "," + codeCell("b", `{"trusted":true,"trusted":true}`, rich),
		} {
			s := serve(t)
			s.put("n.ipynb", notebookOf(cells))
			r := requested(ran("a", "x", 1, stream("x")))
			r.Own = own
			if saved := s.saveOutputs("n.ipynb", r); saved.Version == "" {
				t.Fatal("nothing was written")
			}
			for _, cell := range cellsOf(t, s.api("GET", "n.ipynb", nil).want(200)) {
				if metadata, _ := cell["metadata"].(map[string]any); metadata["trusted"] != false {
					t.Errorf("own %v, flag of %s: cell %s has trusted %v", own, name, cell["id"], metadata["trusted"])
				}
			}
		}
	}
}

func TestOutputsForWhichThereIsNoRoomNowAreAnError(t *testing.T) {
	s := serve(t)
	text := notebookOf(codeCell("a", "{}", ""))
	s.put("n.ipynb", text)
	at := contents.At{Workspace: "w", Path: "n.ipynb", Owner: "ann"}
	r := requested(ran("a", "x", 1, stream(strings.Repeat("x", 1<<20))))
	s.store.Limit(int64(len(text)) + 100)
	if _, err := s.handlers.SaveOutputs(t.Context(), at, r); !errors.As(err, new(*contents.QuotaError)) {
		t.Errorf("over the quota: %v", err)
	}
	s.store.Limit(0)
	for _, method := range []string{"Open", "Put"} {
		s.store.FailNext(method, 1, contents.ErrUnavailable)
		if _, err := s.handlers.SaveOutputs(t.Context(), at, r); !errors.Is(err, contents.ErrUnavailable) {
			t.Errorf("%s fails: %v", method, err)
		}
	}
	if s.stored("n.ipynb") != text {
		t.Error("the notebook has changed")
	}
}

func TestOutputsThatMakeANotebookTooLargeAreGivenUp(t *testing.T) {
	s := serve(t, func(o *contents.Options) { o.MaxFileBytes = 1000 })
	text := notebookOf(codeCell("a", "{}", ""))
	s.put("n.ipynb", text)
	if saved := s.saveOutputs("n.ipynb", requested(ran("a", "x", 1, stream(strings.Repeat("x", 1000))))); len(saved.Cells) != 0 {
		t.Errorf("saved %+v", saved)
	}
	s.put("n.ipynb", text+strings.Repeat(" ", 1000))
	if saved := s.saveOutputs("n.ipynb", requested(ran("a", "x", 1, stream("x")))); len(saved.Cells) != 0 {
		t.Errorf("saved %+v", saved)
	}
}

// Each of several kernels saves the outputs of its own cell again and again while a
// person edits another cell: nothing of anybody is lost.
func TestOutputsAndSavesAtOnceAreAllKept(t *testing.T) {
	s := serve(t)
	const kernels, rounds = 4, 15
	cells := []string{codeCell("edited", "{}", "")}
	for k := range kernels {
		cells = append(cells, codeCell(fmt.Sprint("k", k), "{}", ""))
	}
	s.put("n.ipynb", notebookOf(strings.Join(cells, ",")))
	at := contents.At{Workspace: "w", Path: "n.ipynb", Owner: "ann"}
	var busy sync.WaitGroup
	for k := range kernels {
		busy.Go(func() {
			for n := 1; n <= rounds; n++ {
				id := fmt.Sprint("k", k)
				for { // as its caller does
					saved, err := s.handlers.SaveOutputs(context.Background(), at, requested(ran(id, "x", n, stream(fmt.Sprint(id, " ", n)))))
					if err == nil && saved.Cells[id] {
						break
					}
					if err != nil && !errors.As(err, new(*contents.ChangedError)) || err == nil {
						t.Errorf("%+v, %v", saved, err)
						return
					}
				}
			}
		})
	}
	busy.Go(func() {
		for n := 1; n <= rounds; {
			body, e, err := s.store.Open(context.Background(), "w", "n.ipynb", "", 0, -1)
			if err != nil {
				t.Error(err)
				return
			}
			text, err := io.ReadAll(body)
			body.Close()
			if err != nil {
				t.Error(err)
				return
			}
			edited := strings.Replace(string(text), fmt.Sprintf(`"edited","execution_count":null,"metadata":{%s}`, edit(n-1)), fmt.Sprintf(`"edited","execution_count":null,"metadata":{%s}`, edit(n)), 1)
			_, err = s.store.Put(context.Background(), "w", "n.ipynb", strings.NewReader(edited), contents.PutOptions{IfVersion: e.Version})
			switch {
			case err == nil:
				n++
			case !errors.As(err, new(*contents.ChangedError)):
				t.Error(err)
				return
			}
		}
	})
	busy.Wait()
	for _, cell := range cellsOf(t, s.api("GET", "n.ipynb", nil).want(200)) {
		got, err := json.Marshal([]any{cell["metadata"], cell["execution_count"], cell["outputs"]})
		if err != nil {
			t.Fatal(err)
		}
		id, _ := cell["id"].(string)
		want := fmt.Sprintf(`%d,[{"name":"stdout","output_type":"stream","text":"%s %d"}]`, rounds, id, rounds)
		if id == "edited" {
			want = fmt.Sprintf(`{"n":%d,`, rounds)
		}
		if !strings.Contains(string(got), want) {
			t.Errorf("cell %s is %s, want it to have %s", id, got, want)
		}
	}
}

// edit is what the person writes in round n.
func edit(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(`"n":%d`, n)
}
