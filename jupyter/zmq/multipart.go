package zmq

import (
	"bytes"
	"errors"
	"slices"

	"kernelgw/jupyter"
)

// delimiter stands between the routing identities or topics and the message
// ("Messaging in Jupyter", section "The Wire Protocol").
var delimiter = []byte("<IDS|MSG>")

// Errors of parse: the message is dropped, the connection stays.
var (
	errUnsigned  = errors.New("wrong signature")
	errMalformed = errors.New("not a Jupyter message")
)

// parser makes messages of the frames of one socket.
type parser struct {
	channel     jupyter.Channel
	signer      *jupyter.Signer
	verifyBytes int64 // see Options.VerifyBytes
	proven      bool  // one signature on this socket was right
}

// parse makes a message of a multipart. There may be no frame before the
// delimiter: ipykernel's iopub_welcome has no topic. A cut multipart lacks
// its end, so its signature cannot be checked; what is there of it is returned.
// The message takes over the memory of the frames, and nothing of the slice.
func (p *parser) parse(frames [][]byte, cut bool) (*jupyter.Message, error) {
	for len(frames) > 0 && !bytes.Equal(frames[0], delimiter) {
		frames = frames[1:]
	}
	if len(frames) < 2 {
		return nil, errMalformed
	}
	signature, frames := frames[1], frames[2:]
	if cut && len(frames) > 0 {
		frames = frames[:len(frames)-1] // what stands for the rest
	}
	for cut && len(frames) > 0 && len(frames) < 4 {
		frames = append(frames, []byte("{}"))
	}
	if len(frames) < 4 || !isObject(frames[0]) {
		return nil, errMalformed
	}
	m := &jupyter.Message{
		Channel:      p.channel,
		Header:       frames[0],
		ParentHeader: frames[1],
		Metadata:     frames[2],
		Content:      frames[3],
	}
	if len(frames) > 4 {
		m.Buffers = slices.Clone(frames[4:])
	}
	if !cut && !p.verify(m, signature) {
		return nil, errUnsigned
	}
	return m, nil
}

func (p *parser) verify(m *jupyter.Message, signature []byte) bool {
	size := len(m.Header) + len(m.ParentHeader) + len(m.Metadata) + len(m.Content)
	if p.proven && p.verifyBytes >= 0 && int64(size) > p.verifyBytes {
		return true
	}
	ok := p.signer.Verify(m, signature)
	p.proven = p.proven || ok
	return ok
}

// isObject reports whether b has the look of a JSON object.
func isObject(b []byte) bool {
	b = bytes.TrimSpace(b)
	return len(b) >= 2 && b[0] == '{' && b[len(b)-1] == '}'
}
