package frontend

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/tailscale/hujson"
)

// maxDepth bounds the nesting of settings. The parser's stack grows with it, and
// a stack that is too large ends the process.
const maxDepth = 200

// parseSettings reads what a user wrote in the settings editor: a JSON object,
// with comments and trailing commas. It returns the object as JSON and, for the
// schema, as values.
func parseSettings(raw string) (json.RawMessage, map[string]any, error) {
	if nesting([]byte(raw)) > maxDepth {
		return nil, nil, fmt.Errorf("more than %d levels of nesting", maxDepth)
	}
	standard, err := hujson.Standardize([]byte(raw))
	if err != nil {
		return nil, nil, errors.New(strings.TrimPrefix(err.Error(), "hujson: "))
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(standard))
	if err != nil {
		return nil, nil, err
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, nil, errors.New("settings are an object: { ... }")
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, standard); err != nil {
		return nil, nil, err
	}
	return compact.Bytes(), object, nil
}

// nesting returns how deep brackets are nested, without those in strings and
// comments. It is never less than what the parser will see.
func nesting(text []byte) int {
	depth, deepest := 0, 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '{', '[':
			depth++
			deepest = max(deepest, depth)
		case '}', ']':
			depth--
		case '"':
			for i++; i < len(text) && text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
		case '/':
			i = endOfComment(text, i)
		}
	}
	return deepest
}

// endOfComment returns where the comment that begins at i ends, or i when none
// does.
func endOfComment(text []byte, i int) int {
	end := "\n"
	switch {
	case bytes.HasPrefix(text[i:], []byte("//")):
	case bytes.HasPrefix(text[i:], []byte("/*")):
		end = "*/"
	default:
		return i
	}
	n := bytes.Index(text[i+2:], []byte(end))
	if n < 0 {
		return len(text)
	}
	return i + 2 + n + len(end) - 1
}
