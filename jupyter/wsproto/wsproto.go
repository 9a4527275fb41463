// Package wsproto encodes and decodes Jupyter messages as the payloads of
// WebSocket frames, in the three encodings that clients of a Jupyter server
// speak. It relays the JSON parts of a message byte for byte and decodes none of
// them. It knows nothing of sockets and of what messages mean.
//
// Source: jupyter_server, "WebSocket kernel wire protocols" (default and v1).
package wsproto

import (
	"errors"

	"kernelgw/jupyter"
)

// Subprotocol is the name of the v1 encoding in Sec-WebSocket-Protocol. A server
// echoes it when the client offers it, and names no subprotocol otherwise.
const Subprotocol = "v1.kernel.websocket.jupyter.org"

// Encoding says how messages travel on one WebSocket.
type Encoding uint8

const (
	// V1 is the encoding of Subprotocol: binary frames with an offset table.
	V1 Encoding = iota
	// Legacy is the encoding without a subprotocol: JSON text, and binary frames
	// for messages that have buffers.
	Legacy
	// LegacyText is Legacy for clients that cannot take binary frames: buffers
	// are left out, so that the message is shown as far as JSON goes.
	// (jupyter_server's gateway client and nbclient behind it: one binary frame
	// ends the client's reader for good.)
	LegacyText
)

// String returns the name of the encoding for logs.
func (e Encoding) String() string {
	switch e {
	case V1:
		return "v1"
	case Legacy:
		return "legacy"
	case LegacyText:
		return "legacy-text"
	}
	return "unknown"
}

// MaxParts is the greatest number of parts (channel, JSON and buffers) that
// Decode takes in one frame.
const MaxParts = 1 << 14

// Errors of Decode. The text says what is wrong with the frame, in words that
// can be the reason of a close frame or of a log line.
var (
	// ErrMalformed: the frame is not what its encoding says.
	ErrMalformed = errors.New("malformed frame")
	// ErrUnknownChannel: a client cannot send to that channel.
	ErrUnknownChannel = errors.New("unknown channel")
)

// Append appends m in the encoding to dst, and reports whether it is the payload
// of a binary frame (of a text frame otherwise). Offsets inside the payload are
// relative to its start, which is the length that dst had: a caller may have a
// WebSocket frame header there. The payload does not share memory with m.
//
// A text payload is always valid UTF-8: bytes of the kernel that are not are
// replaced, because a browser closes a WebSocket that carries any. V1 relays
// them.
func Append(dst []byte, enc Encoding, m *jupyter.Message) (payload []byte, binary bool) {
	switch {
	case enc == V1:
		return appendV1(dst, m), true
	case enc == Legacy && len(m.Buffers) > 0:
		return appendLegacyBinary(dst, m), true
	default:
		return appendLegacyText(dst, m), false
	}
}

// Decode reads one frame of a client. binary says which kind of frame it was.
// The message shares memory with payload, which must not be changed as long as
// the message is in use. Errors wrap ErrMalformed or ErrUnknownChannel.
//
// The JSON parts are not validated beyond what separates them. Of a legacy frame,
// a missing channel is the shell and missing or null parts are {}; of both, the
// channel is one that a client can send to: shell, control or stdin.
//
// The payload is in memory already: its length is limited where it is read.
func Decode(enc Encoding, binary bool, payload []byte) (jupyter.Message, error) {
	switch {
	case enc == V1:
		return decodeV1(binary, payload)
	case binary:
		return decodeLegacyBinary(payload)
	default:
		return decodeLegacyText(payload)
	}
}
