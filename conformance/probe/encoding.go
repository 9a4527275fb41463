package probe

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/gorilla/websocket"
)

// Subprotocol is the WebSocket subprotocol of the v1 encoding.
const Subprotocol = "v1.kernel.websocket.jupyter.org"

// Encoding is how a message was framed on the WebSocket.
type Encoding string

// The three encodings.
const (
	V1     Encoding = "v1"     // binary frame, little-endian 64-bit offsets
	Text   Encoding = "text"   // legacy JSON in a text frame
	Binary Encoding = "binary" // legacy binary frame, big-endian 32-bit offsets
)

// Header is a message header, as far as clients read it.
type Header struct {
	MsgID    string `json:"msg_id"`
	MsgType  string `json:"msg_type"`
	Session  string `json:"session"`
	Username string `json:"username"`
	Version  string `json:"version"`
}

// Message is one message from a server.
type Message struct {
	Channel  string
	Header   Header
	Parent   Header
	Metadata json.RawMessage
	Content  json.RawMessage
	Buffers  [][]byte

	Encoding  Encoding
	FrameSize int
	TopID     string // top-level msg_id of the legacy encodings
	TopType   string // top-level msg_type of the legacy encodings
	// BuffersKey says that a legacy message had its list of buffers, empty or not.
	BuffersKey bool
	RawHeader  json.RawMessage
	RawParent  json.RawMessage
	At         time.Time
}

// Field returns a string field of the content, "" when there is none.
func (m Message) Field(name string) string {
	var content map[string]any
	if json.Unmarshal(m.Content, &content) != nil {
		return ""
	}
	text, _ := content[name].(string)
	return text
}

// State returns the execution state of an iopub status, "" for anything else.
func (m Message) State() string {
	if m.Channel != "iopub" || m.Header.MsgType != "status" {
		return ""
	}
	return m.Field("execution_state")
}

// legacy is the JSON of the legacy encodings.
type legacy struct {
	Channel  string          `json:"channel,omitempty"`
	MsgID    string          `json:"msg_id,omitempty"`
	MsgType  string          `json:"msg_type,omitempty"`
	Header   json.RawMessage `json:"header"`
	Parent   json.RawMessage `json:"parent_header"`
	Metadata json.RawMessage `json:"metadata"`
	Content  json.RawMessage `json:"content"`
	Buffers  []any           `json:"buffers"`
}

func decode(kind int, frame []byte, v1 bool) (Message, error) {
	switch {
	case v1 && kind == websocket.BinaryMessage:
		return decodeV1(frame)
	case v1:
		return Message{}, fmt.Errorf("text frame on a v1 socket: %.200s", frame)
	case kind == websocket.TextMessage:
		return decodeLegacy(frame, nil, Text, len(frame))
	default:
		return decodeBinary(frame)
	}
}

func decodeV1(frame []byte) (Message, error) {
	if len(frame) < 8 {
		return Message{}, errors.New("v1 frame under 8 bytes")
	}
	n := binary.LittleEndian.Uint64(frame)
	if n < 6 || n > uint64(len(frame))/8-1 {
		return Message{}, fmt.Errorf("v1 frame of %d bytes announces %d offsets", len(frame), n)
	}
	parts := make([][]byte, 0, n-1)
	at := func(i uint64) uint64 { return binary.LittleEndian.Uint64(frame[8*(i+1):]) }
	if first := at(0); first != 8*(n+1) {
		return Message{}, fmt.Errorf("first v1 offset is %d, want %d", first, 8*(n+1))
	}
	for i := range n - 1 {
		from, to := at(i), at(i+1)
		if from > to || to > uint64(len(frame)) {
			return Message{}, fmt.Errorf("v1 part %d is [%d:%d] of %d bytes", i, from, to, len(frame))
		}
		parts = append(parts, frame[from:to])
	}
	if last := at(n - 1); last != uint64(len(frame)) {
		return Message{}, fmt.Errorf("last v1 offset is %d of %d bytes", last, len(frame))
	}
	return newMessage(string(parts[0]), parts[1], parts[2], parts[3], parts[4], parts[5:], V1, len(frame))
}

func decodeBinary(frame []byte) (Message, error) {
	if len(frame) < 4 {
		return Message{}, errors.New("legacy binary frame under 4 bytes")
	}
	m := binary.BigEndian.Uint32(frame)
	if m < 2 || m > uint32(len(frame))/4-1 {
		return Message{}, fmt.Errorf("legacy binary frame of %d bytes announces %d parts", len(frame), m)
	}
	parts := make([][]byte, 0, m)
	for i := range m {
		from, to := binary.BigEndian.Uint32(frame[4*(i+1):]), uint32(len(frame))
		if i+1 < m {
			to = binary.BigEndian.Uint32(frame[4*(i+2):])
		}
		if from > to || to > uint32(len(frame)) {
			return Message{}, fmt.Errorf("legacy part %d is [%d:%d] of %d bytes", i, from, to, len(frame))
		}
		parts = append(parts, frame[from:to])
	}
	return decodeLegacy(parts[0], parts[1:], Binary, len(frame))
}

func decodeLegacy(body []byte, buffers [][]byte, encoding Encoding, size int) (Message, error) {
	var l legacy
	if err := json.Unmarshal(body, &l); err != nil {
		return Message{}, fmt.Errorf("legacy frame: %w: %.200s", err, body)
	}
	m, err := newMessage(l.Channel, l.Header, l.Parent, l.Metadata, l.Content, buffers, encoding, size)
	m.TopID, m.TopType, m.BuffersKey = l.MsgID, l.MsgType, l.Buffers != nil
	return m, err
}

func newMessage(channel string, header, parent, metadata, content []byte, buffers [][]byte, encoding Encoding, size int) (Message, error) {
	m := Message{
		Channel: channel, Metadata: metadata, Content: content, Buffers: buffers,
		Encoding: encoding, FrameSize: size, RawHeader: header, RawParent: parent, At: time.Now(),
	}
	if err := json.Unmarshal(header, &m.Header); err != nil {
		return m, fmt.Errorf("header: %w: %.200s", err, header)
	}
	if string(parent) == "null" {
		return m, errors.New("parent_header is null, which breaks clients' handling of status")
	}
	if err := json.Unmarshal(parent, &m.Parent); err != nil {
		return m, fmt.Errorf("parent_header: %w: %.200s", err, parent)
	}
	if !json.Valid(metadata) || !json.Valid(content) {
		return m, fmt.Errorf("metadata or content of %s is no JSON", m.Header.MsgType)
	}
	return m, nil
}

// EncodeV1 frames parts (channel, header, parent, metadata, content, buffers)
// in the v1 encoding.
func EncodeV1(parts ...[]byte) []byte {
	at := uint64(8 * (len(parts) + 2))
	frame := binary.LittleEndian.AppendUint64(nil, uint64(len(parts)+1))
	frame = binary.LittleEndian.AppendUint64(frame, at)
	for _, part := range parts {
		at += uint64(len(part))
		frame = binary.LittleEndian.AppendUint64(frame, at)
	}
	for _, part := range parts {
		frame = append(frame, part...)
	}
	return frame
}

// EncodeBinary frames parts (JSON, buffers) in the legacy binary encoding.
func EncodeBinary(parts ...[]byte) []byte {
	at := uint32(4 * (len(parts) + 1))
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(parts)))
	for _, part := range parts {
		frame = binary.BigEndian.AppendUint32(frame, at)
		at += uint32(len(part))
	}
	for _, part := range parts {
		frame = append(frame, part...)
	}
	return frame
}
