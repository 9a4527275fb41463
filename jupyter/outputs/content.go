package outputs

import (
	"bytes"
	"encoding/json"
	"strings"

	"kernelgw/jupyter"
)

// All functions here take valid JSON, and make of what is not as the protocol
// says the emptiest that a notebook can hold.

// decoded is the value of JSON, or the zero value.
func decoded[T any](raw []byte) T {
	var v T
	if len(raw) == 0 || json.Unmarshal(raw, &v) != nil {
		var none T
		return none
	}
	return v
}

// encoded is the JSON of strings, arrays and structs of them, as it is meant:
// not escaped for HTML.
func encoded(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(v) != nil {
		panic("strings cannot be encoded") // they can
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// object returns the raw object, or an empty one.
func object(raw []byte) []byte {
	if len(raw) == 0 || raw[0] != '{' {
		return []byte("{}")
	}
	return raw
}

// displayJSON makes the output of a display_data or update_display_data. What
// the message calls transient is no part of it.
func displayJSON(content []byte) []byte {
	b := append([]byte(nil), `{"output_type":"display_data","metadata":`...)
	b = append(b, object(jupyter.PeekRaw(content, "metadata"))...)
	b = append(b, `,"data":`...)
	b = appendBundle(b, jupyter.PeekRaw(content, "data"))
	return append(b, '}')
}

func resultJSON(content []byte) []byte {
	b := append([]byte(nil), `{"output_type":"execute_result","metadata":`...)
	b = append(b, object(jupyter.PeekRaw(content, "metadata"))...)
	b = append(b, `,"data":`...)
	b = appendBundle(b, jupyter.PeekRaw(content, "data"))
	b = append(b, `,"execution_count":`...)
	if raw := jupyter.PeekRaw(content, "execution_count"); decoded[*int64](raw) != nil {
		b = append(b, raw...)
	} else {
		b = append(b, "null"...)
	}
	return append(b, '}')
}

// appendBundle appends a MIME bundle. Texts that are arrays of lines become
// strings, as nbformat has them in memory; JSON is left as it is.
func appendBundle(b, bundle []byte) []byte {
	first := true
	b = append(b, '{')
	jupyter.Fields(object(bundle), func(key, value []byte) bool {
		if !first {
			b = append(b, ',')
		}
		first = false
		b = appendString(b, string(key))
		b = append(b, ':')
		if value[0] == '[' && !isJSON(string(key)) {
			var lines []string
			if json.Unmarshal(value, &lines) == nil {
				b = appendString(b, strings.Join(lines, ""))
				return true
			}
		}
		b = append(b, value...)
		return true
	})
	return append(b, '}')
}

// isJSON reports whether the values of a MIME type are JSON (nbformat,
// v4.rwbase).
func isJSON(mime string) bool {
	return mime == "application/json" || strings.HasPrefix(mime, "application/") && strings.HasSuffix(mime, "+json")
}

// shownBy returns what a display_data or update_display_data says of a display
// with an id.
func shownBy(content []byte) Display {
	id := jupyter.PeekString(jupyter.PeekRaw(content, "transient"), "display_id")
	if id == "" || len(id) > maxNameSize {
		return Display{}
	}
	return Display{ID: id, json: displayJSON(content)}
}

// pageOf returns the output of what an execute_reply shows in a pager, as ipykernel
// does with the help of an object ("name?"); nil when there is none.
func pageOf(reply []byte) []byte {
	for _, p := range decoded[[]json.RawMessage](jupyter.PeekRaw(reply, "payload")) {
		if jupyter.PeekString(p, "source") == "page" {
			return displayJSON(append(append([]byte(`{"data":`), object(jupyter.PeekRaw(p, "data"))...), '}'))
		}
	}
	return nil
}

func errorOf(content []byte) *Error {
	e := &Error{
		Name:      decoded[string](jupyter.PeekRaw(content, "ename")),
		Value:     decoded[string](jupyter.PeekRaw(content, "evalue")),
		Traceback: decoded[[]string](jupyter.PeekRaw(content, "traceback")),
	}
	if e.Traceback == nil {
		e.Traceback = []string{}
	}
	return e
}

func errorJSON(e *Error) []byte {
	return encoded(struct {
		OutputType string   `json:"output_type"`
		Name       string   `json:"ename"`
		Value      string   `json:"evalue"`
		Traceback  []string `json:"traceback"`
	}{"error", e.Name, e.Value, e.Traceback})
}

// Shortened returns e, or when its JSON has more bytes than that, as much of it
// as they hold: its end counts, where Python says what happened.
func (e *Error) Shortened(most int) *Error {
	if len(errorJSON(e)) <= most {
		return e
	}
	const escaped = 6 // bytes that one may take in JSON
	room := most / escaped
	s := &Error{Name: prefix(e.Name, room/8), Value: prefix(e.Value, room/4), Traceback: []string{}}
	room -= len(s.Name) + len(s.Value)
	for i := len(e.Traceback) - 1; i >= 0 && len(e.Traceback[i])+overhead <= room; i-- {
		room -= len(e.Traceback[i]) + overhead
		s.Traceback = append(s.Traceback, e.Traceback[i])
	}
	for i, j := 0, len(s.Traceback)-1; i < j; i, j = i+1, j-1 {
		s.Traceback[i], s.Traceback[j] = s.Traceback[j], s.Traceback[i]
	}
	return s
}
