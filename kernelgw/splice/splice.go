// Package splice joins a browser's WebSocket to an agent's. It forwards the
// upgrade, checks the agent's answer, and then copies the raw bytes both ways:
// frames of a server are unmasked and frames of a client are masked on both
// legs alike, so nothing needs to be taken apart. Only frame headers are
// followed, to count messages, to refuse what RFC 6455 forbids, to enforce the
// size cap, and to know a boundary at which the gateway may put a last message
// and a close frame of its own. It knows nothing of Jupyter or of kernels, and
// it trusts neither side.
package splice

import (
	"cmp"
	"net"
	"sync/atomic"
	"time"
)

// Defaults of Options.
const (
	DefaultMaxMessageBytes = 100 << 20
	DefaultAnswerTimeout   = 10 * time.Second
	DefaultBoundaryWait    = 5 * time.Second
	DefaultStallLimit      = 90 * time.Second
	DefaultCloseWait       = 5 * time.Second
)

// Options are the limits of a Splice and what it reports to. The zero value is
// usable.
type Options struct {
	// ToClient and ToAgent are added to as bytes cross. Several splices may
	// share them; nil means that nobody counts.
	ToClient, ToAgent *Traffic

	// MaxMessageBytes caps the payload of one message in either direction,
	// all its fragments together. Each fragment after the first also counts
	// its header, so that empty fragments cannot go on for ever. A longer
	// message ends the connection with 1009 before its first byte crosses
	// (before the first fragment that is too much).
	MaxMessageBytes int64
	// Envelope is by how much the agent's messages may be longer: it has checked
	// what the kernel said, and wraps it for the client.
	Envelope int64
	// LimitName is the setting that MaxMessageBytes comes from, for who meets it.
	LimitName string

	// AnswerTimeout bounds the agent's whole answer to the upgrade.
	AnswerTimeout time.Duration
	// BoundaryWait bounds how long End waits for the message in progress
	// before the connection is cut without a close frame.
	BoundaryWait time.Duration
	// StallLimit bounds one blocked write to either side, at most 64 KiB.
	// Until then a peer that does not read only stalls its own connection:
	// nothing is read for it either. Half-open TCP peers are found within it.
	StallLimit time.Duration
	// CloseWait bounds the closing handshake once one side has sent its close
	// frame.
	CloseWait time.Duration

	// AgentLost is asked, once, how to take leave of the client when the
	// agent's connection ended without a close frame. It may block for a
	// moment to find out whether the kernel is gone. Nil means 1011, after
	// which stock clients reconnect.
	AgentLost func() Farewell
}

func (o Options) withDefaults() Options {
	o.MaxMessageBytes = cmp.Or(o.MaxMessageBytes, DefaultMaxMessageBytes)
	o.AnswerTimeout = cmp.Or(o.AnswerTimeout, DefaultAnswerTimeout)
	o.BoundaryWait = cmp.Or(o.BoundaryWait, DefaultBoundaryWait)
	o.StallLimit = cmp.Or(o.StallLimit, DefaultStallLimit)
	o.CloseWait = cmp.Or(o.CloseWait, DefaultCloseWait)
	return o
}

// Traffic counts what crossed in one direction. The caller owns and reads it.
type Traffic struct {
	Messages atomic.Int64 // whole data messages
	Bytes    atomic.Int64 // of the WebSocket stream: headers, payloads and control frames
}

// Opcode says what a data message is (RFC 6455, section 5.2).
type Opcode byte

// The two kinds of data messages.
const (
	Text   Opcode = 1
	Binary Opcode = 2
)

// Farewell is how the gateway itself ends a connection.
type Farewell struct {
	// Message, when not nil, is the payload of one last data message, sent
	// before the close frame if the client is between two messages.
	Message []byte
	Opcode  Opcode // of Message; zero means Text

	Code   int    // close code: 1012 on drain, 1000 when the kernel is gone, 1008 when credentials are no longer valid
	Reason string // for the close frame; what is over 123 bytes is cut

	// Settle is how long the ending may wait for a boundary behind a ping of the
	// agent. What came before a ping will be acknowledged, before the client's
	// answer to the close frame, and is not sent again when it comes back.
	Settle time.Duration

	// Mute stops what the client sends at once. Otherwise it still reaches
	// the agent until the client has answered the close frame, so that a
	// request or an acknowledgement under way is not lost.
	Mute bool
}

// Party is who ended a connection.
type Party string

// The parties of Result.By.
const (
	Client  Party = "client"  // sent a close frame or hung up
	Agent   Party = "agent"   // sent a close frame or hung up
	Gateway Party = "gateway" // End was called, or a rule was broken or a limit exceeded: see Err
)

// Result says how a connection ended and what crossed it.
type Result struct {
	By Party
	// Code is the close code that was sent or seen first; 1005 for a close
	// frame without a code, 1006 when there was no close frame.
	Code int
	// Err says more where there is more to say: a *Violation, or the network
	// error. Nil after a close frame and after End.
	Err error

	MessagesToClient, BytesToClient int64
	MessagesToAgent, BytesToAgent   int64
}

// Splice is one joined pair of connections. Open makes it, Run works it.
type Splice struct {
	opt Options

	client, agent net.Conn
	down, up      pump // agent to client, owned by toClient; client to agent, owned by toAgent

	end    atomic.Pointer[ending]
	deaf   atomic.Bool            // what the client sends is discarded
	gone   atomic.Bool            // the client hung up
	result atomic.Pointer[Result] // the first to end it wrote this
}

// ending is a Farewell that waits for a boundary.
type ending struct {
	Farewell
	by       Party
	err      error
	deadline time.Time // for the boundary, and for writing the farewell
	settle   time.Time // until when a boundary behind a ping is waited for
}

// End ends the connection from the gateway's side: at the next message
// boundary towards the client f's message and close frame are sent; if none
// comes within BoundaryWait, the connection is cut. It returns at once and may
// be called at any time, by anyone, more than once; the first call counts. Run
// returns soon after.
func (s *Splice) End(f Farewell) {
	s.endWith(f, Gateway, nil)
}

func (s *Splice) endWith(f Farewell, by Party, err error) {
	now := time.Now()
	e := &ending{
		Farewell: f, by: by, err: err,
		deadline: now.Add(s.opt.BoundaryWait), settle: now.Add(min(f.Settle, s.opt.BoundaryWait)),
	}
	if !s.end.CompareAndSwap(nil, e) {
		return
	}
	if f.Mute {
		s.deaf.Store(true)
	}
	// toClient is waiting for the agent or for a client that does not read.
	// Both waits end by deadline. toClient looks at s.end after each deadline
	// that it sets itself, so this one cannot be overwritten unseen.
	_ = s.agent.SetReadDeadline(time.Unix(1, 0))
	_ = s.client.SetWriteDeadline(e.deadline)
}
