package contents

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

//go:embed nbformat/*.json
var schemaFiles embed.FS

// currentMinor is the newest minor version of nbformat 4 that there is a schema
// of. Notebooks of a later one may have more members than it knows.
const currentMinor = 5

// schema judges notebooks of one minor version piece by piece, so that a notebook
// is never in memory as a whole.
type schema struct {
	top            *jsonschema.Schema            // with cells emptied
	cells, outputs map[string]*jsonschema.Schema // by their type
}

var schemas [currentMinor + 2]struct {
	once sync.Once
	*schema
}

// schemaOf returns the schema of a minor version.
func schemaOf(minor int) *schema {
	minor = max(0, min(minor, currentMinor+1))
	s := &schemas[minor]
	s.once.Do(func() { s.schema = compileSchema(minor) })
	return s.schema
}

// compileSchema panics only if what is embedded is not what it was.
func compileSchema(minor int) *schema {
	b, err := schemaFiles.ReadFile(fmt.Sprintf("nbformat/nbformat.v4.%d.schema.json", min(minor, currentMinor)))
	if err != nil {
		panic(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		panic(err)
	}
	if minor > currentMinor {
		relax(document)
	}
	compiler := jsonschema.NewCompiler()
	name := "nbformat-" + strconv.Itoa(minor) + ".json"
	if err := compiler.AddResource(name, document); err != nil {
		panic(err)
	}
	of := func(definition string) *jsonschema.Schema {
		return compiler.MustCompile(name + "#/definitions/" + definition)
	}
	return &schema{
		top:   compiler.MustCompile(name),
		cells: map[string]*jsonschema.Schema{"raw": of("raw_cell"), "markdown": of("markdown_cell"), "code": of("code_cell")},
		outputs: map[string]*jsonschema.Schema{
			"execute_result": of("execute_result"), "display_data": of("display_data"), "stream": of("stream"), "error": of("error"),
		},
	}
}

// relax lets objects have members that the schema does not know.
func relax(schema any) {
	switch s := schema.(type) {
	case map[string]any:
		if s["additionalProperties"] == false {
			delete(s, "additionalProperties")
		}
		for _, v := range s {
			relax(v)
		}
	case []any:
		for _, v := range s {
			relax(v)
		}
	}
}

// judge returns what is wrong with a value, or "".
func judge(s *jsonschema.Schema, where string, value any) string {
	var wrong *jsonschema.ValidationError
	if err := s.Validate(value); !errors.As(err, &wrong) {
		return ""
	}
	for len(wrong.Causes) > 0 {
		wrong = wrong.Causes[0]
	}
	where = strings.Join(append([]string{where}, wrong.InstanceLocation...), "/")
	return where + ": " + wrong.ErrorKind.LocalizedString(english)
}

var english = message.NewPrinter(language.English)

// judgeCell returns what is wrong with the cell that a tree is of, or "". id, if
// any, is what it gets in the place of its own.
func (s *schema) judgeCell(t *tree, index int, id string) string {
	where := "cells/" + strconv.Itoa(index)
	value, ok := t.instance(0, 0).(map[string]any)
	if !ok {
		return where + ": it is no object"
	}
	if id != "" {
		value["id"] = id
	}
	kind, _ := value["cell_type"].(string)
	of := s.cells[kind]
	if of == nil {
		return where + ": its cell_type is none of raw, markdown and code"
	}
	outputs, _ := value["outputs"].([]any)
	if kind == "code" && outputs != nil {
		value["outputs"] = []any{}
	}
	if wrong := judge(of, where, value); wrong != "" || kind != "code" {
		return wrong
	}
	for i, output := range outputs {
		members, _ := output.(map[string]any)
		name, _ := members["output_type"].(string)
		at := where + "/outputs/" + strconv.Itoa(i)
		of := s.outputs[name]
		if of == nil {
			return at + ": its output_type is none of execute_result, display_data, stream and error"
		}
		if wrong := judge(of, at, output); wrong != "" {
			return wrong
		}
	}
	return ""
}

const (
	// judgedDepth is how deep the schemas look into a cell.
	judgedDepth = 7
	// judgedString is how much of a string they look at: none of their patterns
	// and lengths needs more.
	judgedString = 128
	// tagsDepth is where the tags of a cell are, an array of which they look at
	// each element. Of other arrays of scalars only the kinds count.
	tagsDepth = 2
)

// instance returns a value as the schema library wants it, cut down to what the
// schemas look at: of a long text nothing but its beginning.
func (t *tree) instance(i int32, depth int) any {
	n := &t.nodes[i]
	switch n.kind {
	case '{':
		members := map[string]any{}
		if depth < judgedDepth {
			for k, kid := range t.all(i) {
				members[t.keyOf(kid)] = t.instance(k, depth+1)
			}
		}
		return members
	case '[':
		elements := []any{}
		if depth < judgedDepth {
			for k := range t.all(i) {
				elements = append(elements, t.instance(k, depth+1))
			}
		}
		return elements
	case lines:
		if depth != tagsDepth && bytes.IndexByte(t.raw(n), '"') > 0 {
			return aLine
		}
		return t.flatInstance(n, true)
	case flat:
		return t.flatInstance(n, depth == tagsDepth)
	case opaque:
		if t.text[n.start] == '{' {
			return map[string]any{}
		}
		return []any{}
	}
	return scalarInstance(t.raw(n), n.kind)
}

// flatInstance has an array of scalars, or of each kind of scalar the first.
func (t *tree) flatInstance(n *node, whole bool) any {
	elements := []any{}
	var kinds [256]bool
	for raw, kind := range t.flatElements(n) {
		if whole || !kinds[kind] {
			elements = append(elements, scalarInstance(raw, kind))
		}
		kinds[kind] = true
	}
	return elements
}

func scalarInstance(raw []byte, kind byte) any {
	switch kind {
	case '"':
		if len(raw) > judgedString {
			return longString
		}
		return unquote(raw)
	case '0':
		return json.Number(raw)
	case 't', 'f':
		return kind == 't'
	}
	return nil
}

// aLine stands for every array of strings of which only that counts.
var aLine = []any{"x"}

// longString stands for every long string.
var longString = strings.Repeat("x", judgedString)
