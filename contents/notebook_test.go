package contents_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func notebookOf(cells string) string {
	return `{"cells":[` + cells + `],"metadata":{},"nbformat":4,"nbformat_minor":5}`
}

func codeCell(id, metadata, outputs string) string {
	return fmt.Sprintf(`{"cell_type":"code","id":%q,"execution_count":null,"metadata":%s,"source":"x","outputs":[%s]}`, id, metadata, outputs)
}

func save(content string) string {
	return `{"type":"notebook","format":"json","content":` + content + `}`
}

const rich = `{"output_type":"display_data","metadata":{},"data":{"text/html":"<b>"}}`

func cellsOf(t *testing.T, a answer) []map[string]any {
	t.Helper()
	var read struct {
		Content struct{ Cells []map[string]any }
	}
	if err := json.Unmarshal(a.body, &read); err != nil {
		t.Fatal(err)
	}
	return read.Content.Cells
}

func TestUnreadableNotebooksAre400(t *testing.T) {
	s := serve(t)
	for name, content := range map[string]string{
		"empty": "", "text": "hello", "cut": `{"cells":[{"cell_type":"co`, "array": `[]`, "null": "null", "more": notebookOf("") + "x",
		"no nbformat": `{"cells":[]}`, "nbformat 3": `{"nbformat":3,"nbformat_minor":0,"metadata":{},"worksheets":3}`, "nbformat 2": `{"nbformat":2}`,
		"nbformat 5": `{"nbformat":5,"nbformat_minor":0,"metadata":{},"cells":[]}`, "no cells": `{"nbformat":4,"nbformat_minor":5,"metadata":{}}`,
		"no minor": `{"nbformat":4,"metadata":{},"cells":[]}`, "cells object": `{"nbformat":4,"nbformat_minor":5,"metadata":{},"cells":{}}`,
		"cell number": notebookOf("1"), "comma": notebookOf(codeCell("a", "{}", "") + ","), "NaN": notebookOf(codeCell("a", `{"x":NaN}`, "")),
		"not UTF-8": notebookOf(codeCell("a", "{}", "")[:20] + "\xff"), "deep": notebookOf(codeCell("a", strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000), "")),
		"deep at the top": strings.Repeat("[", 100_000), "text minor": `{"nbformat":4,"nbformat_minor":"5","metadata":{},"cells":[]}`,
		"huge minor": `{"nbformat":4,"nbformat_minor":99999999999999999999,"metadata":{},"cells":[]}`,
		"metadata":   `{"nbformat":4,"nbformat_minor":5,"metadata":[],"cells":[]}`,
	} {
		s.put(name+".ipynb", content)
		s.api("GET", name+".ipynb", nil).want(400).wantMessage("Unreadable Notebook")
		s.api("GET", name+".ipynb?content=0", nil).want(200)
		if name != "not UTF-8" {
			s.api("GET", name+".ipynb?type=file", nil).want(200).wantField("content", content)
		}
		if content != "" && content != "null" {
			s.api("PUT", "saved.ipynb", save(content)).want(400)
		}
	}
	if a := s.api("GET", "saved.ipynb", nil); a.status != 404 {
		t.Errorf("an unreadable notebook was saved: %s", a.body)
	}
}

func TestANotebookThatTheSchemaRefusesIsKeptAndReadWithAMessage(t *testing.T) {
	s := serve(t)
	for name, c := range map[string]struct{ content, part string }{
		"cell member":   {notebookOf(strings.Replace(codeCell("a", "{}", ""), `"source"`, `"zz":1,"source"`, 1)), "cells/0"},
		"cell type":     {notebookOf(`{"cell_type":"cod","id":"a","metadata":{},"source":""}`), "cells/0"},
		"no outputs":    {notebookOf(codeCell("a", "{}", "") + `,{"cell_type":"code","id":"b","execution_count":null,"metadata":{},"source":"x"}`), "cells/1"},
		"output type":   {notebookOf(codeCell("a", "{}", rich+`,{"output_type":"zz"}`)), "cells/0/outputs/1"},
		"stream number": {notebookOf(codeCell("a", "{}", `{"output_type":"stream","name":"stdout","text":3}`)), "cells/0/outputs/0"},
		"lines mixed":   {notebookOf(codeCell("a", "{}", `{"output_type":"stream","name":"stdout","text":["a",3]}`)), "cells/0/outputs/0"},
		"tag":           {notebookOf(codeCell("a", `{"tags":["a,b"]}`, "")), "tags"},
		"id":            {notebookOf(codeCell(strings.Repeat("i", 65), "{}", "")), "id"},
		"id too long":   {notebookOf(codeCell(strings.Repeat("i", 6500), "{}", "")), "id"},
		"kernelspec":    {`{"cells":[],"metadata":{"kernelspec":{}},"nbformat":4,"nbformat_minor":5}`, "kernelspec"},
		"top member":    {`{"cells":[],"metadata":{},"nbformat":4,"nbformat_minor":5,"zz":1}`, "zz"},
		"outputs text":  {notebookOf(`{"cell_type":"code","id":"b","execution_count":null,"metadata":{},"source":"x","outputs":"zz"}`), "outputs"},
	} {
		t.Run(name, func(t *testing.T) {
			s.api("PUT", name+".ipynb", save(c.content)).want(201).wantMessage("Notebook validation failed").wantMessage(c.part)
			s.api("GET", name+".ipynb", nil).want(200).wantMessage("Notebook validation failed").wantMessage(c.part)
		})
	}
	// A later minor version may have more members.
	later := strings.Replace(notebookOf(strings.Replace(codeCell("a", "{}", ""), `"source"`, `"zz":1,"source"`, 1)), `_minor":5`, `_minor":7`, 1)
	s.api("PUT", "later.ipynb", save(later)).want(201).wantField("message", nil)
}

func TestCellsGetIdsThatTheyLackOrShare(t *testing.T) {
	s := serve(t)
	cell := `{"cell_type":"markdown","metadata":{},"source":"x"}`
	same := `{"cell_type":"markdown","id":"same","metadata":{},"source":"x"}`
	s.put("n.ipynb", notebookOf(strings.Join([]string{cell, cell, same, same}, ",")))
	first := s.api("GET", "n.ipynb", nil).want(200).wantField("message", nil)
	ids := map[any]bool{}
	for _, c := range cellsOf(t, first) {
		ids[c["id"]] = true
	}
	if len(ids) != 4 || ids[nil] || !ids["same"] {
		t.Errorf("ids %v: want four, one of them the one that is there", ids)
	}
	if again := s.api("GET", "n.ipynb", nil); string(again.body) != string(first.body) {
		t.Error("another read gives other ids")
	}
	old := strings.Replace(notebookOf(cell), `_minor":5`, `_minor":4`, 1)
	s.put("old.ipynb", old)
	if c := cellsOf(t, s.api("GET", "old.ipynb", nil).want(200).wantField("message", nil)); c[0]["id"] != nil {
		t.Errorf("a cell of nbformat 4.4 got the id %v", c[0]["id"])
	}
	s.api("PUT", "repaired.ipynb", save(notebookOf(cell+","+same+","+same))).want(201).wantField("message", nil)
}

func TestTrustIsPerPersonAndPerContent(t *testing.T) {
	s := serve(t)
	trusted := func(user, path string) any {
		t.Helper()
		metadata, _ := cellsOf(t, s.api("GET", path, nil, "X-User", user).want(200))[0]["metadata"].(map[string]any)
		return metadata["trusted"]
	}
	check := func(what string, got any, want bool) {
		t.Helper()
		if got != want {
			t.Errorf("%s: trusted is %v, want %v", what, got, want)
		}
	}
	s.put("n.ipynb", notebookOf(codeCell("a", "{}", rich)))
	check("a file from elsewhere", trusted("ann", "n.ipynb"), false)
	s.api("POST", "n.ipynb/trust", nil).want(201)
	check("after trusting it", trusted("ann", "n.ipynb"), true)
	check("for another person", trusted("eve", "n.ipynb"), false)
	s.put("n.ipynb", notebookOf(codeCell("b", "{}", rich)))
	check("changed by a kernel", trusted("ann", "n.ipynb"), false)
	s.api("PUT", "n.ipynb", save(notebookOf(codeCell("a", `{"trusted":true}`, rich)))).want(200)
	check("saved with every cell trusted", trusted("ann", "n.ipynb"), true)
	if strings.Contains(s.stored("n.ipynb"), "trusted") {
		t.Error("the flag is in the file")
	}
	s.api("PUT", "n.ipynb", save(notebookOf(codeCell("a", `{"trusted":true}`, rich)+","+codeCell("b", "{}", rich)))).want(200)
	check("saved with one cell not trusted", trusted("ann", "n.ipynb"), false)
	plain := `{"output_type":"stream","name":"stdout","text":"x"}`
	s.api("PUT", "n.ipynb", save(notebookOf(codeCell("a", `{}`, plain)))).want(200)
	check("with nothing to distrust", trusted("ann", "n.ipynb"), true)
	s.api("PUT", "n.ipynb", save(notebookOf(codeCell("c", `{"trusted":true,"trusted":false}`, rich)))).want(200)
	check("with two flags, the last one false", trusted("ann", "n.ipynb"), false)
	s.api("POST", "n.ipynb", nil).want(400)
	s.put("a.txt", "x")
	s.api("POST", "a.txt/trust", nil).want(400)
	s.api("POST", "nothing.ipynb/trust", nil).want(404)
}

func TestTrustThatCannotBeKnownIsNone(t *testing.T) {
	s := serve(t)
	s.api("PUT", "n.ipynb", save(notebookOf(codeCell("a", `{"trusted":true}`, rich)))).want(201)
	s.documents.FailNext("GetDocument", 1, fmt.Errorf("broken"))
	metadata, _ := cellsOf(t, s.api("GET", "n.ipynb", nil).want(200))[0]["metadata"].(map[string]any)
	if metadata["trusted"] != false {
		t.Errorf("trusted is %v", metadata["trusted"])
	}
	s.documents.FailNext("PutDocument", 1, fmt.Errorf("broken"))
	s.api("PUT", "n.ipynb", save(notebookOf(codeCell("b", `{"trusted":true}`, rich)))).want(200)
}

func TestOnlySoManyTrustedNotebooksAreRemembered(t *testing.T) {
	s := serve(t)
	for i := range 1000 {
		s.api("PUT", "n.ipynb", save(notebookOf(codeCell(fmt.Sprint("a", i), `{"trusted":true}`, rich))))
	}
	names, err := s.documents.ListDocuments(t.Context(), "ann", "")
	if err != nil || len(names) > 256 {
		t.Errorf("%d documents, %v", len(names), err)
	}
}

func TestATypeMayBeAskedForAgainstTheName(t *testing.T) {
	s := serve(t)
	s.put("n.json", notebookOf(codeCell("a", "{}", "")))
	s.api("GET", "n.json?type=notebook", nil).want(200).wantField("type", "notebook").wantField("format", "json")
	s.put("n.ipynb", notebookOf(""))
	s.api("GET", "n.ipynb?type=file", nil).want(200).wantField("type", "file").wantField("format", "text").wantField("content", notebookOf(""))
}
