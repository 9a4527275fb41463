// Package jupytertest is a fake Jupyter kernel that speaks real ZeroMQ, for
// tests and load tests: it starts at once, and does what the code of an
// execute_request tells it to, good or bad (see Commands). It runs in the test's
// process (Start) or as a kernel process of its own (Build, main package
// fakekernel).
//
// Unlike a real kernel it loses nothing when a subscriber does not read: it
// waits. So a message that a test misses was lost by what stands in front.
package jupytertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/go-zeromq/zmq4"

	"kernelgw/jupyter"
)

// Kernel is one fake kernel. Methods are safe for concurrent use.
type Kernel struct {
	// Session is the kernel's own session id, set at construction.
	Session string

	// set at construction
	info                               jupyter.ConnectionInfo
	key                                []byte
	shell, control, stdin, iopub, beat *socket
	requests                           chan request  // shell, in order
	input                              chan request  // input_reply
	stop                               chan struct{} // closed when the kernel is to exit
	stopOnce                           sync.Once
	alive                              context.Context    // of all cells, ends when the sockets are closed
	end                                context.CancelFunc // ends alive
	count                              atomic.Uint64      // message ids given out
	received                           atomic.Uint64      // execute requests received
	rejected                           atomic.Uint64      // messages with a wrong signature

	transcript *json.Encoder // set before Run, nil for none; used under mu

	// owned by the executor
	executions int

	mu        sync.Mutex
	exitCode  int                // guarded by mu
	interrupt context.CancelFunc // guarded by mu: ends the running cell, nil when none runs
}

// request is a message and the connection it came by.
type request struct {
	jupyter.Message
	peer    *peer
	session string
	msgType string
}

// New binds the sockets of a kernel. Ports that are 0 are chosen and written
// to info, which must be loopback or ipc. Run must be called, or Close.
func New(info *jupyter.ConnectionInfo) (*Kernel, error) {
	k := &Kernel{
		Session:  jupyter.NewID(),
		key:      []byte(info.Key),
		requests: make(chan request, 10000),
		input:    make(chan request, 10),
		stop:     make(chan struct{}),
	}
	k.alive, k.end = context.WithCancel(context.Background())
	for _, s := range []struct {
		socket  **socket
		port    *int
		kind    zmq4.SocketType
		receive func(*peer, [][]byte)
	}{
		{&k.shell, &info.ShellPort, zmq4.Router, k.onShell},
		{&k.control, &info.ControlPort, zmq4.Router, k.onControl},
		{&k.stdin, &info.StdinPort, zmq4.Router, k.onStdin},
		{&k.iopub, &info.IOPubPort, zmq4.XPub, k.onSubscription},
		{&k.beat, &info.HBPort, zmq4.Rep, k.onHeartbeat},
	} {
		var err error
		if *s.socket, err = bind(*info, s.port, s.kind, s.receive); err != nil {
			k.Close()
			return nil, err
		}
	}
	k.info = *info
	return k, nil
}

func bind(info jupyter.ConnectionInfo, port *int, kind zmq4.SocketType, receive func(*peer, [][]byte)) (*socket, error) {
	if info.Transport == "ipc" {
		return listen("unix", info.IP+"-"+strconv.Itoa(*port), kind, receive)
	}
	s, err := listen("tcp", net.JoinHostPort(info.IP, strconv.Itoa(*port)), kind, receive)
	if err == nil {
		*port = s.listener.Addr().(*net.TCPAddr).Port
	}
	return s, err
}

// Run serves until ctx ends, Close, shutdown_request, or code that makes the
// kernel die, and returns the exit code that a process would have.
func (k *Kernel) Run(ctx context.Context) int {
	defer context.AfterFunc(ctx, k.Close)()
	var group sync.WaitGroup
	for _, s := range k.sockets() {
		group.Go(s.serve)
	}
	k.publish(jupyter.NewStatus(jupyter.Starting, k.Session), true)
	group.Go(k.execute)
	<-k.stop
	for _, s := range k.sockets() { // first, so that a cell that dies says no more
		s.close()
	}
	k.end()
	group.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.exitCode
}

// Close ends Run, and frees the ports when Run was never called.
func (k *Kernel) Close() {
	k.exit(0)
	for _, s := range k.sockets() {
		if s != nil {
			s.close()
		}
	}
	k.end()
}

// Interrupt ends the running cell with a KeyboardInterrupt.
func (k *Kernel) Interrupt() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.interrupt != nil {
		k.interrupt()
	}
}

// Received is how many execute requests have arrived.
func (k *Kernel) Received() uint64 { return k.received.Load() }

// Rejected is how many messages had a wrong signature.
func (k *Kernel) Rejected() uint64 { return k.rejected.Load() }

func (k *Kernel) sockets() []*socket {
	return []*socket{k.shell, k.control, k.stdin, k.iopub, k.beat}
}

// exit makes Run return. The first code counts.
func (k *Kernel) exit(code int) {
	k.stopOnce.Do(func() {
		k.mu.Lock()
		k.exitCode = code
		k.mu.Unlock()
		close(k.stop)
	})
}

func (k *Kernel) onHeartbeat(p *peer, frames [][]byte) {
	p.send(appendFrames(nil, frames...), true)
}

// onSubscription welcomes a subscriber as ipykernel 7 does: without a topic.
func (k *Kernel) onSubscription(p *peer, frames [][]byte) {
	if len(frames) != 1 || len(frames[0]) == 0 || frames[0][0] != 1 {
		return
	}
	welcome, err := jupyter.NewMessage(jupyter.IOPub, "iopub_welcome", k.Session, map[string]string{"subscription": string(frames[0][1:])})
	if err != nil {
		return
	}
	k.iopub.subscribe(p)
	p.send(k.wire(nil, welcome), true)
}

func (k *Kernel) onShell(p *peer, frames [][]byte) {
	if r, ok := k.decode(p, jupyter.Shell, frames); ok {
		if r.msgType == "execute_request" {
			k.received.Add(1)
		}
		select {
		case k.requests <- r:
		case <-k.stop:
		}
	}
}

func (k *Kernel) onStdin(p *peer, frames [][]byte) {
	if r, ok := k.decode(p, jupyter.Stdin, frames); ok {
		select {
		case k.input <- r:
		default: // nobody waits for so much input
		}
	}
}

// decode splits a request and checks its signature.
func (k *Kernel) decode(p *peer, channel jupyter.Channel, frames [][]byte) (request, bool) {
	for len(frames) > 0 && !bytes.Equal(frames[0], []byte("<IDS|MSG>")) {
		frames = frames[1:]
	}
	if len(frames) < 6 {
		return request{}, false
	}
	r := request{peer: p, Message: jupyter.Message{
		Channel: channel, Header: frames[2], ParentHeader: frames[3], Metadata: frames[4], Content: frames[5], Buffers: frames[6:],
	}}
	if !jupyter.Verify(k.key, &r.Message, frames[1]) {
		k.rejected.Add(1)
		return request{}, false
	}
	var h jupyter.Header
	// Only what the kernel needs: clients send dates of any type.
	if err := json.Unmarshal(r.Header, &struct {
		MsgType *string `json:"msg_type"`
		Session *string `json:"session"`
	}{&h.MsgType, &h.Session}); err != nil {
		return request{}, false
	}
	r.msgType, r.session = h.MsgType, h.Session
	return r, true
}

// message makes a message of the kernel whose parent is the request.
func (k *Kernel) message(channel jupyter.Channel, msgType string, parent *request, content any) *jupyter.Message {
	c, err := json.Marshal(content)
	if err != nil {
		c = fmt.Appendf(nil, `{"error":%q}`, err)
	}
	m := &jupyter.Message{
		Channel:      channel,
		Header:       k.header(msgType),
		ParentHeader: []byte("{}"),
		Metadata:     []byte("{}"),
		Content:      c,
	}
	if parent != nil {
		m.ParentHeader = parent.Header
	}
	return m
}

// header is quicker than a marshal, for floods.
func (k *Kernel) header(msgType string) []byte {
	h := append(make([]byte, 0, 192), `{"msg_id":"`...)
	h = append(h, k.Session...)
	h = append(h, '_')
	h = strconv.AppendUint(h, k.count.Add(1), 10)
	h = append(h, `","msg_type":"`...)
	h = append(h, msgType...)
	h = append(h, `","username":"fake","session":"`...)
	h = append(h, k.Session...)
	h = append(h, `","date":"`...)
	h = now().AppendFormat(h, "2006-01-02T15:04:05.000000Z")
	return append(h, `","version":"5.3"}`...)
}

// wire signs and frames a message, after the topic if there is one.
func (k *Kernel) wire(topic []byte, m *jupyter.Message) []byte {
	return k.wireSigned(topic, m, jupyter.Sign(k.key, m))
}

func (k *Kernel) wireSigned(topic []byte, m *jupyter.Message, signature string) []byte {
	frames := make([][]byte, 0, 7+len(m.Buffers))
	if topic != nil {
		frames = append(frames, topic)
	}
	frames = append(frames, []byte("<IDS|MSG>"), []byte(signature), m.Header, m.ParentHeader, m.Metadata, m.Content)
	frames = append(frames, m.Buffers...)
	return appendFrames(make([]byte, 0, m.Size()+256), frames...)
}

func (k *Kernel) topic(msgType string) []byte {
	return []byte("kernel." + k.Session + "." + msgType)
}

// publish sends on iopub, with or without waiting for more.
func (k *Kernel) publish(m *jupyter.Message, flush bool) {
	k.transcribe(m)
	k.iopub.publish(k.wire(k.topic(jupyter.PeekType(m.Header)), m), flush)
}

func (k *Kernel) status(state jupyter.State, parent *request) {
	k.publish(k.message(jupyter.IOPub, "status", parent, map[string]any{"execution_state": state}), true)
}

// reply answers a request by the connection that it came by.
func (k *Kernel) reply(r *request, msgType string, content any) {
	m := k.message(r.Channel, msgType, r, content)
	k.transcribe(m)
	r.peer.send(k.wire(nil, m), true)
}

var errInterrupted = errors.New("interrupted")
