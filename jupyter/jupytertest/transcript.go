package jupytertest

import (
	"encoding/json"
	"hash/fnv"
	"io"

	"kernelgw/jupyter"
)

// TranscriptEnv names a file in the environment of a fake kernel process, to which
// the kernel's transcript is appended.
const TranscriptEnv = "FAKEKERNEL_TRANSCRIPT"

// Said is a line of a transcript: a message that the kernel sent. What a client
// received can be compared with it, byte for byte, without trust in anything that
// stands between.
type Said struct {
	Channel  jupyter.Channel `json:"channel"`
	ID       string          `json:"id"`
	Type     string          `json:"type"`
	ParentID string          `json:"parent_id"`
	Session  string          `json:"session"` // of the request that it belongs to
	Size     int             `json:"size"`    // as jupyter.Message.Size
	Sum      uint64          `json:"sum"`     // as Sum
}

// Sum is a checksum of what a message says.
func Sum(content []byte, buffers [][]byte) uint64 {
	h := fnv.New64a()
	h.Write(content) // a hash never fails
	for _, b := range buffers {
		h.Write(b)
	}
	return h.Sum64()
}

// Transcribe writes a line of JSON, a Said, for each message before it is sent,
// in the order in which they are sent on each channel, but for what answers
// requests on control. It is called before Run.
func (k *Kernel) Transcribe(to io.Writer) { k.transcript = json.NewEncoder(to) }

// transcribe notes a message that is about to be sent.
func (k *Kernel) transcribe(m *jupyter.Message) {
	if k.transcript == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	_ = k.transcript.Encode(Said{
		Channel: m.Channel, ID: jupyter.PeekID(m.Header), Type: jupyter.PeekType(m.Header),
		ParentID: jupyter.PeekID(m.ParentHeader), Session: jupyter.PeekSession(m.ParentHeader),
		Size: m.Size(), Sum: Sum(m.Content, m.Buffers),
	}) // a transcript that lacks a message shows by what a client has more
}
