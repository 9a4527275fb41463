package agent

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"github.com/gorilla/websocket"

	"kernelgw/jupyter"
	"kernelgw/jupyter/zmq"
)

// inbound takes messages of clients to the kernel: at once when it answers,
// later and in order when it is about to, not at all when it is dead.
type inbound struct {
	mu        sync.Mutex
	kernel    kernelLink // nil unless the kernel answers; guarded by mu
	dead      bool       // guarded by mu
	held      []*jupyter.Message
	heldBytes int
}

// kernelLink is what inbound needs of a generation.
type kernelLink interface {
	Send(*jupyter.Message) error
}

// Limits on what waits for a kernel that starts. One message may always wait.
const (
	maxHeld      = 1000
	maxHeldBytes = 16 << 20
)

func (in *inbound) send(h *hub, m *jupyter.Message, id string) error {
	execute := m.Channel == jupyter.Shell && isType(m, `"execute_request"`)
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.dead {
		h.ignored.Add(1)
		return nil
	}
	if in.kernel == nil {
		return in.hold(h, m, id, execute)
	}
	// Before the kernel has it: the answer may be faster than this goroutine.
	news := execute && h.track.request(id, m.Header)
	err := in.kernel.Send(m)
	if err == nil {
		return nil
	}
	if news {
		h.track.refused(id)
	}
	if why := refusal(h, err); why != nil {
		return why
	}
	// The process is ending. Its successor answers what was asked now.
	return in.hold(h, m, id, execute)
}

// offer is send for a sender that keeps its messages itself: false says that the
// kernel starts, and open will follow. An error says that it will not be taken.
func (in *inbound) offer(h *hub, m *jupyter.Message, id string) (taken bool, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.dead:
		return false, errAbsent
	case in.kernel == nil:
		return false, nil
	}
	execute := m.Channel == jupyter.Shell
	if execute {
		h.track.request(id, m.Header)
	}
	err = in.kernel.Send(m)
	if err == nil {
		return true, nil
	}
	if execute {
		h.track.refused(id)
	}
	if why := refusal(h, err); why != nil {
		return false, errors.New(why.reason)
	}
	return false, nil // the process is ending
}

// refusal says why a kernel that lives did not take a message, nil when it is
// the connection that is over.
func refusal(h *hub, err error) *closeError {
	switch {
	case errors.Is(err, zmq.ErrBacklog):
		return &closeError{websocket.CloseTryAgainLater, "the kernel does not read its messages; interrupt or restart it"}
	case errors.Is(err, zmq.ErrTooLarge):
		return tooLarge(h.maxMessage)
	}
	return nil
}

// hold needs the lock.
func (in *inbound) hold(h *hub, m *jupyter.Message, id string, execute bool) error {
	if m.Channel == jupyter.Stdin {
		h.ignored.Add(1) // the question is that of a process that is gone
		return nil
	}
	if len(in.held) >= maxHeld || in.heldBytes > 0 && in.heldBytes+m.Size() > maxHeldBytes {
		return &closeError{websocket.CloseTryAgainLater, fmt.Sprintf(
			"the kernel is starting and %d messages (%d bytes) wait for it already", len(in.held), in.heldBytes)}
	}
	in.heldBytes += m.Size()
	in.held = append(in.held, clone(m))
	if execute {
		h.track.request(id, m.Header)
	}
	return nil
}

// open delivers what was held and lets everything pass from now on.
func (in *inbound) open(h *hub, kernel kernelLink) {
	// Told without the lock: executions that take what is published hold their own
	// when they ask for this one.
	for _, r := range in.deliver(h, kernel) {
		h.tellRefused(r.message, r.why)
	}
}

// refused is a held message that the kernel did not take.
type refused struct {
	message *jupyter.Message
	why     *closeError
}

func (in *inbound) deliver(h *hub, kernel kernelLink) (list []refused) {
	in.mu.Lock()
	defer in.mu.Unlock()
	held := in.held
	in.held, in.heldBytes, in.dead = nil, 0, false
	in.kernel = kernel
	for i, m := range held {
		err := kernel.Send(m)
		if err == nil {
			continue
		}
		if why := refusal(h, err); why != nil {
			h.refuse(m)
			list = append(list, refused{m, why})
			continue
		}
		for _, m := range held[i:] { // gone again; for the next one
			in.held = append(in.held, m)
			in.heldBytes += m.Size()
		}
		break
	}
	return list
}

// wait holds messages from now on, and calls then with the ids of the execute
// requests that are held. No other comes meanwhile.
func (in *inbound) wait(then func(executions []string)) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.kernel, in.dead = nil, false
	var executions []string
	for _, m := range in.held {
		if isType(m, `"execute_request"`) {
			executions = append(executions, jupyter.PeekID(m.Header))
		}
	}
	then(executions)
}

// refuse drops messages from now on, and what was held.
func (in *inbound) refuse() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.kernel, in.dead = nil, true
	in.held, in.heldBytes = nil, 0
}

func isType(m *jupyter.Message, rawType string) bool {
	return string(jupyter.PeekRaw(m.Header, "msg_type")) == rawType
}

// limitName is what the limit of a message is called where it is set: in the
// configuration of the gateway.
const limitName = "max_message"

func tooLarge(limit int64) *closeError {
	return &closeError{websocket.CloseMessageTooBig, fmt.Sprintf("message exceeds the limit of %d bytes (%s)", limit, limitName)}
}

// clone copies a message whose memory is its reader's.
func clone(m *jupyter.Message) *jupyter.Message {
	c := &jupyter.Message{
		Channel:      m.Channel,
		Header:       bytes.Clone(m.Header),
		ParentHeader: bytes.Clone(m.ParentHeader),
		Metadata:     bytes.Clone(m.Metadata),
		Content:      bytes.Clone(m.Content),
	}
	for _, b := range m.Buffers {
		c.Buffers = append(c.Buffers, bytes.Clone(b))
	}
	return c
}
