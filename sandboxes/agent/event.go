package agent

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"strconv"
	"unicode/utf8"

	"kernelgw/sandboxes/agent/eventlog"
)

// step is what a follower of the log gets next.
type step = eventlog.Step[frame]

// eventWriter writes steps as the JSON objects of agentapi's streams, each in one
// line of valid UTF-8, whatever the kernel sent.
type eventWriter struct {
	epoch string
	to    io.Writer // set for each object
	err   error     // the first of to
	b     []byte    // scratch
}

// id appends the id of a place in the log.
func (e *eventWriter) id(b []byte, at eventlog.Position) []byte {
	return at.AppendText(append(append(b, e.epoch...), '-'))
}

// write writes one step.
func (e *eventWriter) write(to io.Writer, s *step) error {
	e.to, e.err = to, nil
	e.place(s.At)
	if lost := s.Lost; lost.Messages > 0 {
		e.b = append(e.b, `,"lost":`...)
		e.b = appendLost(e.b, lost.Messages, lost.Bytes)
		e.text(`,"parent_header":`)
		e.part(lost.Parent)
		e.text("}")
		return e.err
	}
	m := s.Entry.Value.message()
	e.b = append(append(append(e.b, `,"channel":"`...), m.Channel...), '"')
	for _, part := range [...]struct {
		name string
		raw  []byte
	}{
		{`,"msg":{"header":`, m.Header},
		{`,"parent_header":`, m.ParentHeader},
		{`,"metadata":`, m.Metadata},
		{`,"content":`, m.Content},
	} {
		e.text(part.name)
		e.part(part.raw)
	}
	e.text(`},"buffers":[`)
	for i, b := range m.Buffers {
		if i > 0 {
			e.text(",")
		}
		e.base64(b)
	}
	e.text("]}")
	return e.err
}

// writePlace writes an object that says nothing but where the reader is.
func (e *eventWriter) writePlace(to io.Writer, at eventlog.Position) error {
	e.to, e.err = to, nil
	e.place(at)
	e.text("}")
	return e.err
}

// place begins an object in the scratch.
func (e *eventWriter) place(at eventlog.Position) {
	e.b = e.id(append(e.b[:0], `{"id":"`...), at)
	e.b = strconv.AppendUint(append(e.b, `","seq":`...), at.Seq, 10)
}

func appendLost(b []byte, messages, bytes uint64) []byte {
	b = strconv.AppendUint(append(b, `{"messages":`...), messages, 10)
	b = strconv.AppendUint(append(b, `,"bytes":`...), bytes, 10)
	return append(b, '}')
}

// text writes what is in the scratch, and s.
func (e *eventWriter) text(s string) {
	e.raw(append(e.b, s...))
}

// raw writes b and empties the scratch, which b may be.
func (e *eventWriter) raw(b []byte) {
	if e.err == nil {
		_, e.err = e.to.Write(b)
	}
	e.b = e.b[:0]
}

// part writes one of a message's JSON objects. A kernel may have sent anything.
func (e *eventWriter) part(raw []byte) {
	switch {
	case len(raw) == 0:
		raw = []byte("{}")
	case !json.Valid(raw):
		raw = []byte("null")
	}
	if !utf8.Valid(raw) {
		raw = bytes.ToValidUTF8(raw, []byte("\uFFFD"))
	}
	if bytes.ContainsAny(raw, "\r\n") { // between values only: it is valid
		raw = bytes.Map(func(r rune) rune {
			if r == '\r' || r == '\n' {
				return ' '
			}
			return r
		}, raw)
	}
	e.raw(raw)
}

// base64 writes b as a JSON string.
func (e *eventWriter) base64(b []byte) {
	e.text(`"`)
	if e.err == nil {
		encoder := base64.NewEncoder(base64.StdEncoding, e.to)
		_, e.err = encoder.Write(b)
		if err := encoder.Close(); e.err == nil {
			e.err = err
		}
	}
	e.text(`"`)
}
