package wsproto

import (
	"encoding/binary"
	"fmt"
	"slices"

	"kernelgw/jupyter"
)

// The parts of a v1 frame before the buffers: channel, header, parent header,
// metadata, content.
const v1Parts = 5

func appendV1(dst []byte, m *jupyter.Message) []byte {
	dst = slices.Grow(dst, 8*(2+v1Parts+len(m.Buffers))+len(m.Channel)+m.Size())
	dst = AppendV1Head(dst, m)
	dst = append(dst, m.Header...)
	dst = append(dst, m.ParentHeader...)
	dst = append(dst, m.Metadata...)
	dst = append(dst, m.Content...)
	for _, b := range m.Buffers {
		dst = append(dst, b...)
	}
	return dst
}

// AppendV1Head appends to dst the beginning of what Append makes of m in V1, up
// to the channel. What follows is the header, parent header, metadata, content
// and buffers of m, with nothing between them: so a large message need not be
// copied to be sent.
func AppendV1Head(dst []byte, m *jupyter.Message) []byte {
	offsets := v1Parts + len(m.Buffers) + 1
	table := 8 * (1 + offsets)
	dst = slices.Grow(dst, table+len(m.Channel))

	next := uint64(table)
	word := func(v uint64) { dst = binary.LittleEndian.AppendUint64(dst, v) }
	word(uint64(offsets))
	word(next)
	for _, n := range [v1Parts]int{len(m.Channel), len(m.Header), len(m.ParentHeader), len(m.Metadata), len(m.Content)} {
		next += uint64(n)
		word(next)
	}
	for _, b := range m.Buffers {
		next += uint64(len(b))
		word(next)
	}
	return append(dst, m.Channel...)
}

func decodeV1(isBinary bool, p []byte) (jupyter.Message, error) {
	if !isBinary {
		return jupyter.Message{}, fmt.Errorf("%w: a text frame, but %s has binary frames only", ErrMalformed, Subprotocol)
	}
	if len(p) < 8 {
		return jupyter.Message{}, fmt.Errorf("%w: %d bytes are too few for an offset table", ErrMalformed, len(p))
	}
	count := binary.LittleEndian.Uint64(p)
	if count < v1Parts+1 || count > MaxParts+1 {
		return jupyter.Message{}, fmt.Errorf("%w: %d offsets, of %d to %d", ErrMalformed, count, v1Parts+1, MaxParts+1)
	}
	table := 8 * (1 + int(count))
	if len(p) < table {
		return jupyter.Message{}, fmt.Errorf("%w: %d bytes are too few for %d offsets", ErrMalformed, len(p), count)
	}
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(p[8*(1+i):]) }

	at := word(0)
	if at < uint64(table) || at > uint64(len(p)) {
		return jupyter.Message{}, fmt.Errorf("%w: the first part is at %d, outside %d to %d", ErrMalformed, at, table, len(p))
	}
	if end := word(int(count) - 1); end != uint64(len(p)) {
		return jupyter.Message{}, fmt.Errorf("%w: the last offset is %d, the frame has %d bytes", ErrMalformed, end, len(p))
	}
	var part [v1Parts][]byte
	var buffers [][]byte
	if n := int(count) - 1 - v1Parts; n > 0 {
		buffers = make([][]byte, n)
	}
	for i := range int(count) - 1 {
		end := word(i + 1)
		if end < at || end > uint64(len(p)) {
			return jupyter.Message{}, fmt.Errorf("%w: part %d reaches from %d to %d of %d bytes", ErrMalformed, i, at, end, len(p))
		}
		b := p[at:end:end]
		if i < v1Parts {
			part[i] = b
		} else {
			buffers[i-v1Parts] = b
		}
		at = end
	}
	channel, err := clientChannel(part[0])
	if err != nil {
		return jupyter.Message{}, err
	}
	return jupyter.Message{
		Channel:      channel,
		Header:       part[1],
		ParentHeader: part[2],
		Metadata:     part[3],
		Content:      part[4],
		Buffers:      buffers,
	}, nil
}

// clientChannel is the channel of that name, if clients can send to it.
func clientChannel(name []byte) (jupyter.Channel, error) {
	switch string(name) {
	case string(jupyter.Shell):
		return jupyter.Shell, nil
	case string(jupyter.Control):
		return jupyter.Control, nil
	case string(jupyter.Stdin):
		return jupyter.Stdin, nil
	}
	const shown = 32 // a close reason has at most 123 bytes
	if len(name) > shown {
		return "", fmt.Errorf("%w %q...: send to shell, control or stdin", ErrUnknownChannel, name[:shown])
	}
	return "", fmt.Errorf("%w %q: send to shell, control or stdin", ErrUnknownChannel, name)
}
