package wsproto

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"unicode/utf8"

	"kernelgw/jupyter"
)

func appendLegacyText(dst []byte, m *jupyter.Message) []byte {
	return appendJSON(dst, m)
}

func appendLegacyBinary(dst []byte, m *jupyter.Message) []byte {
	start := len(dst)
	parts := 1 + len(m.Buffers)
	table := 4 * (1 + parts)
	dst = slices.Grow(dst, table+jsonOverhead+m.Size())
	dst = append(dst, make([]byte, table)...)
	word := func(i, v int) { binary.BigEndian.PutUint32(dst[start+4*i:], uint32(v)) }

	dst = appendJSON(dst, m)
	word(0, parts)
	word(1, table)
	for i, b := range m.Buffers {
		word(2+i, len(dst)-start)
		dst = append(dst, b...)
	}
	return dst
}

// jsonOverhead is what appendJSON adds to the four JSON parts: the keys, and
// msg_id and msg_type once more. Longer ones cost an allocation, nothing else.
const jsonOverhead = 256

// appendJSON appends the JSON object of the legacy encodings. msg_id and
// msg_type are repeated outside the header because nbclient and others read
// them there.
func appendJSON(dst []byte, m *jupyter.Message) []byte {
	start := len(dst)
	dst = slices.Grow(dst, jsonOverhead+len(m.Header)+len(m.ParentHeader)+len(m.Metadata)+len(m.Content))
	dst = append(dst, `{"channel":"`...)
	dst = append(dst, m.Channel...)
	dst = append(dst, `","msg_id":`...)
	dst = appendString(dst, jupyter.PeekRaw(m.Header, "msg_id"))
	dst = append(dst, `,"msg_type":`...)
	dst = appendString(dst, jupyter.PeekRaw(m.Header, "msg_type"))
	dst = append(dst, `,"header":`...)
	dst = appendObject(dst, m.Header)
	dst = append(dst, `,"parent_header":`...)
	dst = appendObject(dst, m.ParentHeader)
	dst = append(dst, `,"metadata":`...)
	dst = appendObject(dst, m.Metadata)
	dst = append(dst, `,"content":`...)
	dst = appendObject(dst, m.Content)
	dst = append(dst, `,"buffers":[]}`...)
	if !utf8.Valid(dst[start:]) {
		dst = append(dst[:start], bytes.ToValidUTF8(dst[start:], []byte("\uFFFD"))...)
	}
	return dst
}

// appendString appends a raw JSON string, "" when there is none.
func appendString(dst, raw []byte) []byte {
	if len(raw) == 0 || raw[0] != '"' {
		return append(dst, `""`...)
	}
	return append(dst, raw...)
}

// appendObject appends a raw JSON object, {} when there is none.
func appendObject(dst, raw []byte) []byte {
	if len(raw) == 0 {
		return append(dst, `{}`...)
	}
	return append(dst, raw...)
}

func decodeLegacyBinary(p []byte) (jupyter.Message, error) {
	if len(p) < 4 {
		return jupyter.Message{}, fmt.Errorf("%w: %d bytes are too few for an offset table", ErrMalformed, len(p))
	}
	count := binary.BigEndian.Uint32(p)
	if count < 1 || count > MaxParts {
		return jupyter.Message{}, fmt.Errorf("%w: %d parts, of 1 to %d", ErrMalformed, count, MaxParts)
	}
	table := 4 * (1 + int(count))
	if len(p) < table {
		return jupyter.Message{}, fmt.Errorf("%w: %d bytes are too few for %d offsets", ErrMalformed, len(p), count)
	}
	word := func(i int) uint64 { return uint64(binary.BigEndian.Uint32(p[4*(1+i):])) }

	at := word(0)
	if at < uint64(table) || at > uint64(len(p)) {
		return jupyter.Message{}, fmt.Errorf("%w: the first part is at %d, outside %d to %d", ErrMalformed, at, table, len(p))
	}
	var object []byte
	var buffers [][]byte
	if count > 1 {
		buffers = make([][]byte, count-1)
	}
	for i := range int(count) {
		end := uint64(len(p))
		if i+1 < int(count) {
			end = word(i + 1)
		}
		if end < at || end > uint64(len(p)) {
			return jupyter.Message{}, fmt.Errorf("%w: part %d reaches from %d to %d of %d bytes", ErrMalformed, i, at, end, len(p))
		}
		if i == 0 {
			object = p[at:end:end]
		} else {
			buffers[i-1] = p[at:end:end]
		}
		at = end
	}
	m, err := decodeLegacyText(object)
	m.Buffers = buffers
	return m, err
}

func decodeLegacyText(p []byte) (jupyter.Message, error) {
	if !utf8.Valid(p) {
		return jupyter.Message{}, fmt.Errorf("%w: not valid UTF-8", ErrMalformed)
	}
	m := jupyter.Message{Channel: jupyter.Shell}
	var channel []byte
	whole := jupyter.Fields(p, func(key, value []byte) bool {
		switch string(key) { // the last of several counts, as in Python and JavaScript
		case "header":
			m.Header = value
		case "parent_header":
			m.ParentHeader = value
		case "metadata":
			m.Metadata = value
		case "content":
			m.Content = value
		case "channel":
			channel = value
		}
		return true
	})
	if !whole {
		return jupyter.Message{}, fmt.Errorf("%w: not a JSON object", ErrMalformed)
	}
	if len(m.Header) == 0 || m.Header[0] != '{' {
		return jupyter.Message{}, fmt.Errorf("%w: the message has no header", ErrMalformed)
	}
	if !defaultObject(&m.ParentHeader) || !defaultObject(&m.Metadata) || !defaultObject(&m.Content) {
		return jupyter.Message{}, fmt.Errorf("%w: parent_header, metadata or content is not an object", ErrMalformed)
	}
	if len(channel) == 0 || string(channel) == "null" {
		return m, nil
	}
	if channel[0] != '"' {
		return jupyter.Message{}, fmt.Errorf("%w: the channel is not a string", ErrMalformed)
	}
	var err error
	if m.Channel, err = clientChannel(channel[1 : len(channel)-1]); err != nil {
		return jupyter.Message{}, err
	}
	return m, nil
}

// defaultObject makes {} of a part that is missing or null, and reports whether
// it is an object then.
func defaultObject(part *[]byte) bool {
	if len(*part) == 0 || string(*part) == "null" {
		*part = []byte("{}")
	}
	return (*part)[0] == '{'
}
