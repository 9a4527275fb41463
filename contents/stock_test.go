package contents_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// stockPython is the Python of the stock server, which has nbformat.
func stockPython(t *testing.T) string {
	t.Helper()
	python, err := filepath.Abs("../.cache/venv/stock/bin/python")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(python); err != nil {
		t.Fatalf("%v: run make clients, which installs the stock server there", err)
	}
	return python
}

// samples are contents of notebooks, as clients send them.
var samples = map[string]string{
	"empty": `{"cells":[],"metadata":{},"nbformat":4,"nbformat_minor":5}`,
	"order": `{"nbformat_minor":5,"metadata":{"zeta":1,"alpha":{"c":[],"b":{},"a":[1,2.5,-100000,true,null]},"signature":"x","orig_nbformat":3},"nbformat":4,
	  "cells":[{"source":"# title\n\ntext","metadata":{},"id":"m1","cell_type":"markdown"}]}`,
	"lines": `{"cells":[{"cell_type":"code","id":"c1","execution_count":1,"metadata":{"trusted":true,"tags":["a","b"]},
	  "source":"a\r\nb\rc\n\nd\u000be\u000cf\u0085g\u2028h\u2029i\u001cj",
	  "outputs":[{"output_type":"stream","name":"stdout","text":"one\ntwo"},
	   {"output_type":"display_data","metadata":{},"data":{"text/plain":"p\nq","text/html":["<b>\n","</b>"],"image/png":"aGk=\naGk=\n",
	    "application/json":{"b":[1,"x\ny"],"a":["s\n","t"]},"image/svg+xml":"<svg>\n</svg>","application/vnd.x+json":"a\nb","application/javascript":"x\ny"}},
	   {"output_type":"execute_result","execution_count":1,"metadata":{"isolated":true},"data":{"text/plain":""}},
	   {"output_type":"error","ename":"E","evalue":"v\nw","traceback":["a\nb","c"]}]}],"metadata":{},"nbformat":4,"nbformat_minor":5}`,
	"escapes": `{"cells":[{"cell_type":"raw","id":"r1","metadata":{"f":"\/a\/\u00e9\u65e5\ud83d\ude00\u007f"},"source":"\u00e9\u0041 \"q\" \\ \b\f\t\u0001\u001f </script> 日本"}],
	  "metadata":{"ü":1,"\u00fc2":2},"nbformat":4,"nbformat_minor":5}`,
	"attachments": `{"cells":[{"cell_type":"markdown","id":"a","attachments":{"i.png":{"image/png":"aGk=","text/plain":"a\nb"}},"metadata":{"trusted":false},"source":["x\n","y"]}],
	  "metadata":{"kernelspec":{"name":"python3","display_name":"P"},"language_info":{"name":"python"}},"nbformat":4,"nbformat_minor":5}`,
	"minor 4": `{"cells":[{"cell_type":"code","execution_count":null,"metadata":{},"source":"","outputs":[]}],"metadata":{},"nbformat":4,"nbformat_minor":4}`,
	"twice":   `{"cells":[],"metadata":{"a":1,"a":2},"nbformat":4,"nbformat_minor":2,"nbformat_minor":5}`,
}

const stockWrites = `
import sys, json, nbformat
out = {}
for name, text in json.load(sys.stdin).items():
    nb = nbformat.from_dict(json.loads(text))
    out[name] = nbformat.writes(nb, version=nbformat.NO_CONVERT) + "\n"
json.dump(out, sys.stdout)
`

const stockReads = `
import sys, json, nbformat
out = {}
for name, text in json.load(sys.stdin).items():
    nb = nbformat.reads(text, as_version=4)
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.metadata.trusted = False
    out[name] = nb
json.dump(out, sys.stdout)
`

// ask runs a script of the stock Python on JSON.
func ask(t *testing.T, script string, in, out any) {
	t.Helper()
	encoded, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), stockPython(t), "-W", "ignore", "-c", script)
	command.Stdin = bytes.NewReader(encoded)
	var stderr strings.Builder
	command.Stderr = &stderr
	got, err := command.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	if err := json.Unmarshal(got, out); err != nil {
		t.Fatal(err)
	}
}

func TestNotebooksAreStoredByteForByteAsNbformatWritesThem(t *testing.T) {
	want := map[string]string{}
	ask(t, stockWrites, samples, &want)
	s := serve(t)
	for name, content := range samples {
		s.api("PUT", name+".ipynb", `{"type":"notebook","format":"json","content":`+content+`}`).want(201)
		if got := s.stored(name + ".ipynb"); got != want[name] {
			t.Errorf("%s: stored\n%s\nnbformat writes\n%s", name, got, want[name])
		}
	}
}

func TestNotebooksAreReadAsNbformatReadsThem(t *testing.T) {
	files := map[string]string{}
	ask(t, stockWrites, samples, &files)
	for name, content := range samples {
		files[name+", as sent"] = content
	}
	want := map[string]any{}
	ask(t, stockReads, files, &want)
	s := serve(t)
	for name, content := range files {
		s.put(name+".ipynb", content)
		got := s.api("GET", name+".ipynb", nil).want(200).wantField("format", "json").wantField("mimetype", nil).wantField("message", nil).field("content")
		if !reflect.DeepEqual(got, want[name]) {
			t.Errorf("%s: read\n%v\nnbformat reads\n%v", name, got, want[name])
		}
	}
}

// oldNotebook is of nbformat 3.
const oldNotebook = `{"metadata":{"name":"x","signature":"s","kept":1},"nbformat":3,"nbformat_minor":0,"worksheets":[{"cells":[
 {"cell_type":"heading","level":2,"metadata":{},"source":["A\n","b"]},{"cell_type":"markdown","metadata":{},"source":["x\n","y"]},
 {"cell_type":"code","collapsed":true,"input":["a\n","b"],"language":"python","metadata":{},"prompt_number":3,"outputs":[
  {"output_type":"pyout","prompt_number":3,"metadata":{},"html":["<b>\n","x"],"text":["t"],"json":["{\"a\": [1]}"]},
  {"output_type":"display_data","png":"aGk=","text":"p"},{"output_type":"stream","stream":"stderr","text":["a\n","b"]},
  {"output_type":"pyerr","ename":"E","evalue":"v","traceback":["t"]}]}],"metadata":{}},
 {"cells":[{"cell_type":"code","input":"","language":"python","metadata":{},"outputs":[]},{"cell_type":"raw","metadata":{},"source":"r"}],"metadata":{}}]}`

func TestOldNotebooksAreReadAsNbformatUpgradesThem(t *testing.T) {
	want := map[string]any{}
	ask(t, stockReads, map[string]string{"n": oldNotebook}, &want)
	s := serve(t)
	s.put("n.ipynb", oldNotebook)
	s.api("PUT", "saved.ipynb", save(oldNotebook)).want(201).wantField("message", nil)
	for _, name := range []string{"n.ipynb", "saved.ipynb"} {
		got := s.api("GET", name, nil).want(200).wantField("message", nil).field("content")
		for _, nb := range []any{got, want["n"]} {
			members, _ := nb.(map[string]any)
			metadata, _ := members["metadata"].(map[string]any)
			delete(metadata, "orig_nbformat") // which clients strip
			delete(metadata, "orig_nbformat_minor")
			cells, _ := members["cells"].([]any)
			for _, cell := range cells {
				c, _ := cell.(map[string]any)
				delete(c, "id") // which are made up
				if metadata, _ := c["metadata"].(map[string]any); name == "saved.ipynb" {
					delete(metadata, "trusted")
				}
			}
		}
		if !reflect.DeepEqual(got, want["n"]) {
			t.Errorf("%s is read as\n%v\nnbformat upgrades to\n%v", name, got, want["n"])
		}
	}
}
