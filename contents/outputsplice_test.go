package contents

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// randomNotebook is the text of a notebook in pieces: what must stay, and between
// two such pieces what is to be replaced.
type randomNotebook struct {
	r      *rand.Rand
	keep   []string
	values []string // of what is replaced; "count" and "outputs" stand for the new ones
	text   strings.Builder
	cells  []CellOutputs
}

func (n *randomNotebook) pick(of ...string) string { return of[n.r.IntN(len(of))] }

func (n *randomNotebook) space() string {
	return n.pick("", "", " ", "\n", "\t", "\r\n   ")
}

// replaced ends a piece that stays by a value that does not.
func (n *randomNotebook) replaced(now, by string) {
	n.keep = append(n.keep, n.text.String())
	n.values = append(n.values, now, by)
	n.text.Reset()
}

func (n *randomNotebook) value(depth int) string {
	if depth > 3 {
		return "0"
	}
	switch n.r.IntN(6) {
	case 0:
		return n.pick("0", "-1.50e+3", "true", "null")
	case 1:
		return "[" + n.space() + n.value(depth+1) + n.space() + "," + n.value(depth+1) + "]"
	case 2:
		return `{"outputs":[],` + n.space() + `"source"` + n.space() + `:` + n.value(depth+1) + `}`
	default:
		return n.pick(`""`, `"\u00e9\/é"`, `"cells"`, `"a\"],}"`, `["a\n","b"]`, `[]`, `{}`)
	}
}

func (n *randomNotebook) object(members ...func()) {
	n.r.Shuffle(len(members), func(i, k int) { members[i], members[k] = members[k], members[i] })
	n.text.WriteString("{" + n.space())
	for i, f := range members {
		if i > 0 {
			n.text.WriteString("," + n.space())
		}
		f()
		n.text.WriteString(n.space())
	}
	n.text.WriteString("}")
}

func (n *randomNotebook) member(key, value string) func() {
	return func() { n.text.WriteString(`"` + key + `"` + n.space() + ":" + n.space() + value) }
}

func (n *randomNotebook) output() string {
	return n.pick(
		`{"output_type":"stream","name":"stdout","text":"a\nb<&>\u2028"}`,
		`{"output_type":"display_data","data":{"image/png":"aGk=","text/plain":"<Figure>","application/json":{"b":1,"a":[1,"x"]}},"metadata":{}}`,
		`{"output_type":"error","ename":"E","evalue":"é","traceback":["\u001b[31m","x"]}`,
		`{"output_type":"execute_result","data":{"text/html":"<b>\n</b>"},"metadata":{"m":{}},"execution_count":3}`,
	)
}

// cell appends a cell, and perhaps what a run of it put out.
func (n *randomNotebook) cell(index int) {
	source := n.pick(``, `x`, `a\nb`, `print(\"\u00e9\")`, `日`)
	kind := n.pick("code", "code", "code", "markdown")
	id := fmt.Sprint("id", index)
	members := []func(){
		n.member("cell_type", `"`+kind+`"`), n.member("id", `"`+id+`"`), n.member("metadata", `{"x":`+n.value(0)+`}`),
		n.member("source", n.pick(`"`+source+`"`, `["`+source+`"]`, `["",`+n.space()+`"`+source+`"]`)),
	}
	old := "[" + n.space() + "]"
	if n.r.IntN(2) == 0 {
		old = "[" + n.space() + n.output() + "," + n.output() + n.space() + "]"
	}
	run := CellOutputs{ID: id, SourceSHA256: sumOf(source)}
	if kind == "code" && n.r.IntN(3) > 0 {
		count := 100000 + n.r.IntN(100)
		run.ExecutionCount = &count
		outputs := n.output()
		run.Outputs = json.RawMessage("[" + outputs + "," + stdout(count) + "]")
		n.cells = append(n.cells, run)
		members = append(members, n.member("execution_count", ""), n.member("outputs", ""))
		count1, outputs1 := members[4], members[5]
		members[4] = func() { count1(); n.replaced("null", fmt.Sprint(count)) }
		members[5] = func() { outputs1(); n.replaced(old, "["+outputs+","+stdout(count)+"]") }
	} else if kind == "code" {
		if n.r.IntN(2) == 0 { // it was edited since
			run.SourceSHA256 = sumOf("other")
			n.cells = append(n.cells, run)
		}
		members = append(members, n.member("execution_count", n.pick("null", "12")), n.member("outputs", old))
	}
	n.object(members...)
}

func stdout(count int) string {
	return fmt.Sprintf(`{"output_type":"stream","name":"stderr","text":"%d\n"}`, count)
}

func sumOf(source string) string {
	t := &tree{text: []byte(`{"source":"` + source + `"}`)}
	if _, err := t.parse(0); err != nil {
		panic(err)
	}
	return sourceSum(t)
}

func (n *randomNotebook) make() {
	cells := func() {
		n.text.WriteString(`"cells":` + n.space() + "[")
		for i := range n.r.IntN(6) {
			if i > 0 {
				n.text.WriteString(n.space() + "," + n.space())
			}
			n.cell(i)
		}
		n.text.WriteString(n.space() + "]")
	}
	n.text.WriteString(n.space())
	n.object(cells, n.member("metadata", `{"m":`+n.value(0)+`}`), n.member("nbformat", "4"), n.member("nbformat_minor", "5"))
	n.text.WriteString(n.space())
	n.keep = append(n.keep, n.text.String())
}

// mergedInto returns a notebook's text with outputs in it, nil when nothing changes.
func mergedInto(t *testing.T, text []byte, cells []CellOutputs) (*merging, []byte, error) {
	t.Helper()
	m := &merging{room: outputRoom(cells, 1<<30)}
	merged, err := passed(t, text, func(nb *notebook, out *spool) error {
		m.nb = nb
		if err := m.merge(cells); err != nil || len(m.splices) == 0 {
			return err
		}
		return m.write(out)
	})
	return m, merged, err
}

// What is outside the values that were replaced is the same bytes, whatever the
// notebook looks like, and what is inside means what was put out.
func TestEverythingAroundOutputsStaysAsItIs(t *testing.T) {
	for seed := range uint64(3000) {
		n := &randomNotebook{r: rand.New(rand.NewPCG(seed, 6))}
		n.make()
		var text strings.Builder
		for i, keep := range n.keep {
			text.WriteString(keep)
			if i < len(n.keep)-1 {
				text.WriteString(n.values[2*i])
			}
		}
		m, merged, err := mergedInto(t, []byte(text.String()), n.cells)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if len(n.keep) == 1 {
			if len(m.splices) > 0 {
				t.Fatalf("seed %d: nothing was to change: %s", seed, merged)
			}
			continue
		}
		rest := string(merged)
		for i, keep := range n.keep {
			if !strings.HasPrefix(rest, keep) {
				t.Fatalf("seed %d: of\n%s\nbecame\n%s\nwhere piece %d is %q", seed, text.String(), merged, i, keep)
			}
			rest = rest[len(keep):]
			if i == len(n.keep)-1 {
				break
			}
			inside := &tree{text: []byte(rest)}
			end, err := inside.parse(0)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := oneForm(asRead(rest[:end])), oneForm(asRead(n.values[2*i+1])); got != want {
				t.Fatalf("seed %d: value %d is %s, want %s", seed, i, got, want)
			}
			rest = rest[end:]
		}
		if rest != "" {
			t.Fatalf("seed %d: %q is too much", seed, rest)
		}
		if again, _, err := mergedInto(t, merged, n.cells); err != nil || len(again.splices) > 0 {
			t.Fatalf("seed %d: the same once more changes %d values (%v)", seed, len(again.splices), err)
		}
	}
}

// asRead returns outputs with their texts joined.
func asRead(outputs string) json.RawMessage {
	var out bytes.Buffer
	t := &tree{text: []byte(outputs)}
	if _, err := t.parse(0); err != nil {
		panic(err)
	}
	if t.nodes[0].kind != '[' {
		return json.RawMessage(outputs)
	}
	w := reading{output: (&notebook{}).outputTo(&spool{limit: 1 << 30})}
	w.Writer.Reset(&out)
	w.outputs(t, 0)
	_ = w.Flush()
	return out.Bytes()
}

// nested is an output of about so many bytes that is a hundred times as large when
// it is indented.
func nested(size int) string {
	const depth = 900
	inner := strings.Repeat("[],", size/3) + "[]"
	return `{"output_type":"display_data","data":{"application/json":` + strings.Repeat("[", depth) + inner + strings.Repeat("]", depth) + `},"metadata":{}}`
}

func TestOutputsThatGrowTooMuchByIndentingAreRefused(t *testing.T) {
	cell := func(id, outputs string) string {
		return `{"cell_type":"code","id":"` + id + `","execution_count":null,"metadata":{},"source":"x","outputs":[` + outputs + `]}`
	}
	bomb, small := nested(4<<20), stdout(7)
	run := func(id, output string) CellOutputs {
		return CellOutputs{ID: id, SourceSHA256: sumOf("x"), Outputs: json.RawMessage("[" + output + "]")}
	}
	text := `{"cells":[` + cell("a", "") + "," + cell("b", bomb) + "," + cell("c", "") + `],"metadata":{},"nbformat":4,"nbformat_minor":5}`
	m, merged, err := mergedInto(t, []byte(text), []CellOutputs{run("a", bomb), run("b", small), run("c", small)})
	if err != nil {
		t.Fatal(err)
	}
	if m.cells["a"] || !m.cells["b"] || !m.cells["c"] || len(m.refused) != 1 {
		t.Errorf("merged %v, refused %q", m.cells, m.refused)
	}
	if len(merged) > len(text) {
		t.Errorf("%d bytes became %d", len(text), len(merged))
	}
	node := &tree{text: []byte(`[` + bomb + `]`)}
	if _, err := node.parse(0); err != nil {
		t.Fatal(err)
	}
	value, ok := asStored(node, 0, 1<<20)
	if ok || len(value) > 1<<20 {
		t.Errorf("%d bytes where there is room for a megabyte", len(value))
	}
	if isStoredAs(node, 0, value[:100]) {
		t.Error("the start of a value is not the value")
	}
}

func FuzzMerge(f *testing.F) {
	cell := `{"cell_type":"code","id":"a","execution_count":null,"metadata":{},"source":"x","outputs":[]}`
	for _, minor := range []string{"5", "4"} {
		f.Add([]byte(`{"cells":[`+cell+`],"metadata":{},"nbformat":4,"nbformat_minor":`+minor+`}`), []byte(`{"output_type":"stream","name":"stdout","text":"a\nb"}`), 3)
	}
	f.Add([]byte(`{"cells":[{"outputs":1,"outputs":{"a":[]},"id":"a","source":["","x"],"execution_count":[],"cell_type":"code"},`+cell+`],"nbformat":4,"nbformat_minor":9}`), []byte(`{"output_type":"error","ename":"","evalue":"","traceback":["\ud800"]}`), -1)
	f.Fuzz(func(t *testing.T, text, output []byte, count int) {
		cells := []CellOutputs{{ID: "a", SourceSHA256: sumOf("x"), ExecutionCount: &count, Outputs: json.RawMessage("[" + string(output) + "]")}}
		m, merged, err := mergedInto(t, text, cells)
		if err != nil || len(m.splices) == 0 {
			return
		}
		kept, from := []byte(nil), 0
		for _, s := range m.splices {
			kept, from = append(kept, text[from:s.start]...), int(s.end)
		}
		kept = append(kept, text[from:]...)
		for _, s := range m.splices {
			kept = append(kept, s.value...)
		}
		if len(kept) != len(merged) {
			t.Fatalf("%q became %q", text, merged)
		}
		present := func(nb *notebook, out *spool) error { _, err := nb.present(out, false); return err }
		if _, err := passed(t, text, present); err == nil {
			if read, err := passed(t, merged, present); err != nil || !json.Valid(read) {
				t.Fatalf("%q became %q, which is read as %q, %v", text, merged, read, err)
			}
		}
		again, _, err := mergedInto(t, merged, cells)
		if err != nil || len(again.splices) > 0 {
			t.Fatalf("%q, merged once more, changes %d values (%v)", merged, len(again.splices), err)
		}
	})
}
