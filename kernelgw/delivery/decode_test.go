package delivery

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
)

// decode reads a frame of a server as clients do: by the Jupyter documentation, and
// not by what wrote it.
func decode(enc wsproto.Encoding, isBinary bool, b []byte) (jupyter.Message, error) {
	switch {
	case enc == wsproto.V1 && isBinary:
		parts, err := split(b, 8, func(b []byte) int { return int(binary.LittleEndian.Uint64(b)) })
		if err != nil || len(parts) < 6 {
			return jupyter.Message{}, fmt.Errorf("a v1 frame of %d parts: %w", len(parts), err)
		}
		// The last offset is the end of the frame, where no part begins.
		return jupyter.Message{
			Channel: jupyter.Channel(parts[0]), Header: parts[1], ParentHeader: parts[2], Metadata: parts[3], Content: parts[4],
			Buffers: parts[5 : len(parts)-1],
		}, nil
	case enc == wsproto.V1:
		return jupyter.Message{}, fmt.Errorf("a text frame")
	case isBinary:
		parts, err := split(b, 4, func(b []byte) int { return int(binary.BigEndian.Uint32(b)) })
		if err != nil || len(parts) < 1 {
			return jupyter.Message{}, fmt.Errorf("a legacy frame of %d parts: %w", len(parts), err)
		}
		m, err := decodeObject(parts[0])
		m.Buffers = parts[1:]
		return m, err
	default:
		return decodeObject(b)
	}
}

func decodeObject(b []byte) (jupyter.Message, error) {
	var o struct {
		Channel      jupyter.Channel `json:"channel"`
		Header       json.RawMessage `json:"header"`
		ParentHeader json.RawMessage `json:"parent_header"`
		Metadata     json.RawMessage `json:"metadata"`
		Content      json.RawMessage `json:"content"`
	}
	err := json.Unmarshal(b, &o)
	return jupyter.Message{Channel: o.Channel, Header: o.Header, ParentHeader: o.ParentHeader, Metadata: o.Metadata, Content: o.Content}, err
}

// split reads a table of offsets, of words that are size bytes long, and returns
// what begins at each.
func split(b []byte, size int, word func([]byte) int) ([][]byte, error) {
	if len(b) < size {
		return nil, fmt.Errorf("it has %d bytes", len(b))
	}
	n := word(b)
	if n < 1 || n > len(b)/size {
		return nil, fmt.Errorf("it has %d offsets in %d bytes", n, len(b))
	}
	parts := make([][]byte, n)
	for end, i := len(b), n-1; i >= 0; i-- {
		at := word(b[size*(1+i):])
		if at < 0 || at > end {
			return nil, fmt.Errorf("offset %d is %d of %d", i, at, end)
		}
		parts[i], end = b[at:end:end], at
	}
	return parts, nil
}
