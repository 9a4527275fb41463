package frontend

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestNestingSeesOnlyBracketsThatCount(t *testing.T) {
	for text, want := range map[string]int{
		``: 0, `{}`: 1, `{"a": [{}]}`: 3, `"[[[["`: 0, `"\"[[["`: 0, `"\\"[[`: 2, `// [[[`: 0, "// [[[\n[": 1, `/* [[ */[`: 1, `/*/[[*/[`: 1, `/[`: 1, `/`: 0, `"`: 0, `"\`: 0,
	} {
		if got := nesting([]byte(text)); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

// Whatever a user writes, it is refused or becomes an object, which comes back
// the same, and never ends the process.
func FuzzParseSettings(f *testing.F) {
	for _, seed := range []string{
		"{}", `{"a": 1, /* c */ "b": [1, 2,],}`, "// c\n{\"a\": \"\\\"//\"}", "[]", "{", `{"a": 1e999}`, `{"a": "\ud800"}`, `{"a":1,"a":2}`,
		"\ufeff{}", strings.Repeat("[", 300), strings.Repeat(`{"a":`, 201) + "1" + strings.Repeat("}", 201), "/*/{}", `{"a": 0x10}`, "{'a': 1}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		text, values, err := parseSettings(raw)
		if err != nil {
			return
		}
		if !json.Valid(text) || values == nil {
			t.Fatalf("%q became %q", raw, text)
		}
		again, _, err := parseSettings(string(text))
		if err != nil || string(again) != string(text) {
			t.Fatalf("%q became %q, then %q: %v", raw, text, again, err)
		}
		if n := nesting([]byte(raw)); n > maxDepth || n < nesting(text) {
			t.Fatalf("%q is nested %d deep, and was taken for %d", raw, nesting(text), n)
		}
	})
}
