package agentapi

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestAPartOfOutputIsWhatItSays(t *testing.T) {
	for answer, want := range map[string]error{
		`{"number":1,"from":0,"bytes":5,"size":3}` + "\nabc":                   nil,
		`{"number":1,"from":0,"bytes":5,"size":3}` + "\nabcdef":                nil, // what follows is not looked at
		`{"number":1,"from":0,"bytes":5,"size":3}` + "\nab":                    io.ErrUnexpectedEOF,
		`{"number":1,"from":0,"bytes":5,"size":0}` + "\n":                      ErrLies,
		`{"number":1,"from":0,"bytes":5,"size":6000000}` + "\nab":              ErrLies,
		`{"number":0,"from":0,"bytes":5,"size":3}` + "\nabc":                   ErrLies,
		`{"number":1e9,"from":0,"bytes":5,"size":3}` + "\nabc":                 ErrLies,
		`{"number":1,"from":-1,"bytes":5,"size":3}` + "\nabc":                  ErrLies,
		`{"number":1,"from":0,"bytes":-5,"size":3}` + "\nabc":                  ErrLies,
		`{"number":1,"from":9223372036854775807,"bytes":1,"size":3}` + "\nabc": ErrLies,
		`{"number":1,"from":0,"bytes":70000000,"size":3}` + "\nabc":            ErrLies,
		"[]\nabc":                                ErrLies,
		strings.Repeat(" ", MaxLineBytes) + "\n": ErrLies,
	} {
		p, content, err := readOutputPart(strings.NewReader(answer))
		if !errors.Is(err, want) || err == nil && (string(content) != "abc" || p.Bytes != 5) {
			t.Errorf("%.80q is %+v %q, %v, want %v", answer, p, content, err, want)
		}
	}
}

func FuzzOutputPart(f *testing.F) {
	f.Add([]byte(`{"number":1,"from":0,"bytes":5,"size":3}` + "\nabc"))
	f.Add([]byte(`{"number":1,"size":9999999999}` + "\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		p, content, err := readOutputPart(bytes.NewReader(answer))
		if err == nil && (p.Check() != nil || int64(len(content)) != p.Size) {
			t.Errorf("%+v with %d bytes is taken", p, len(content))
		}
	})
}

func TestAPartTakesMemoryAsItComes(t *testing.T) {
	const header = `{"number":1,"from":0,"bytes":5,"size":4000000}` + "\n"
	for sent, most := range map[int]int{0: firstPart, 10: firstPart, firstPart + 1: 2 * firstPart, 3_999_999: 4_000_000} {
		_, content, err := readOutputPart(strings.NewReader(header + strings.Repeat("x", sent)))
		if !errors.Is(err, io.ErrUnexpectedEOF) || len(content) != sent || cap(content) > most {
			t.Errorf("of %d bytes %d came, %v, in memory of %d", sent, len(content), err, cap(content))
		}
	}
}
