package agent

import (
	"encoding/binary"
	"fmt"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
	"kernelgw/sandboxes/agent/eventlog"
)

// frame is one message as the event log keeps it and all sockets share it.
type frame struct {
	// v1 is the message in the v1 encoding, whole; of a large one only the head,
	// which the parts of large follow.
	v1     []byte
	large  *jupyter.Message
	legacy []byte // in the legacy encoding; nil of a large message, and when no socket wanted it at the time
	// buffers says that the message has any, so that legacy is a binary frame.
	buffers bool
	// restarting says that it is the agent's own "restarting".
	restarting bool
}

// largeMessage is the size from which a message is kept in the memory that it
// came in. Below, one piece of memory is cheaper than the copy is dear.
const largeMessage = 16 << 10

// newFrame takes over m, or copies it.
func newFrame(m *jupyter.Message) frame {
	f := frame{buffers: len(m.Buffers) > 0}
	if m.Size() >= largeMessage {
		f.v1, f.large = wsproto.AppendV1Head(nil, m), m
	} else {
		f.v1, _ = wsproto.Append(nil, wsproto.V1, m)
	}
	return f
}

// entry makes the log's entry of a message, which belongs to it from then on.
// legacy says that a socket will want the legacy encoding, which is then made
// once for all.
func entry(m *jupyter.Message, to string, kind kind, legacy bool) eventlog.Entry[frame] {
	f := newFrame(m)
	if legacy && f.large == nil { // of a large one two encodings would fill the log
		f.legacy, _ = wsproto.Append(nil, wsproto.Legacy, m)
	}
	cost := len(f.v1) + len(f.legacy)
	if f.large != nil {
		cost += m.Size()
	}
	return eventlog.Entry[frame]{
		To:     to,
		Class:  kind.class(),
		Quiet:  kind == kindComm || kind == kindReply && m.Channel != jupyter.Stdin,
		Parent: f.parent(),
		Bytes:  m.Size(),
		Cost:   cost,
		Value:  f,
	}
}

// part is part i of a whole v1 encoding: channel, header, parent header, ...
func (f *frame) part(i int) []byte {
	at := binary.LittleEndian.Uint64(f.v1[8*(1+i):])
	end := binary.LittleEndian.Uint64(f.v1[8*(2+i):])
	return f.v1[at:end:end]
}

// parent is the parent header, in the frame's own memory.
func (f *frame) parent() []byte {
	if f.large != nil {
		return f.large.ParentHeader
	}
	return f.part(2)
}

// channel is where the message came from.
func (f *frame) channel() jupyter.Channel {
	if f.large != nil {
		return f.large.Channel
	}
	return jupyter.Channel(f.part(0))
}

// message takes a frame apart. The message shares its memory.
func (f *frame) message() *jupyter.Message {
	if f.large != nil {
		return f.large
	}
	m := &jupyter.Message{
		Channel:      jupyter.Channel(f.part(0)),
		Header:       f.part(1),
		ParentHeader: f.part(2),
		Metadata:     f.part(3),
		Content:      f.part(4),
	}
	parts := int(binary.LittleEndian.Uint64(f.v1)) - 1
	for i := 5; i < parts; i++ {
		m.Buffers = append(m.Buffers, f.part(i))
	}
	return m
}

// payload appends to parts the pieces of the frame's payload in an encoding,
// and reports whether it is binary.
func (f *frame) payload(enc wsproto.Encoding, parts [][]byte) (_ [][]byte, binary bool) {
	switch {
	case enc == wsproto.V1:
		parts = append(parts, f.v1)
		if m := f.large; m != nil {
			parts = append(parts, m.Header, m.ParentHeader, m.Metadata, m.Content)
			parts = append(parts, m.Buffers...)
		}
		return parts, true
	case f.legacy != nil && !(f.buffers && enc == wsproto.LegacyText):
		return append(parts, f.legacy), f.buffers
	default:
		b, binary := wsproto.Append(nil, enc, f.message())
		return append(parts, b), binary
	}
}

// marker is the message in the place of what a client cannot have any more.
func (h *hub) marker(lost eventlog.Lost) frame {
	text := fmt.Sprintf("output truncated: %d messages, %d bytes%s\n", lost.Messages, lost.Bytes, h.where)
	m := jupyter.NewStream("stderr", text, *h.session.Load(), lost.Parent)
	return newFrame(m)
}

// kind is what the agent needs to know of an iopub message.
type kind uint8

const (
	kindOther kind = iota
	kindStatus
	kindStream
	kindDisplay
	kindComm
	kindInput // execute_input
	kindError
	kindWelcome
	kindReply // whatever comes on shell, control and stdin
)

// kindOf classifies a message by the raw msg_type of its header.
func kindOf(rawType []byte) kind {
	switch string(rawType) { // does not allocate
	case `"status"`:
		return kindStatus
	case `"stream"`:
		return kindStream
	case `"display_data"`, `"update_display_data"`, `"execute_result"`, `"clear_output"`:
		return kindDisplay
	case `"comm_open"`, `"comm_msg"`, `"comm_close"`:
		return kindComm
	case `"execute_input"`:
		return kindInput
	case `"error"`:
		return kindError
	case `"iopub_welcome"`:
		return kindWelcome
	}
	return kindOther
}

func (k kind) class() eventlog.Class {
	switch k {
	case kindStream:
		return eventlog.Stream
	case kindDisplay, kindOther:
		return eventlog.Display
	default:
		return eventlog.Kept
	}
}
