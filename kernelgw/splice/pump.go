package splice

import (
	"cmp"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// pump is one direction.
type pump struct {
	in     source
	follow follower
	out    net.Conn
	count  *Traffic
	early  []byte // read from in's connection before the splice began

	bytes    int64     // sent on
	messages int64     // of follow.messages, already counted in count
	armed    time.Time // when out's write deadline was last set
}

// next returns the next bytes of the stream, valid until in.release.
func (p *pump) next() ([]byte, error) {
	if early := p.early; early != nil {
		p.early = nil
		return early, nil
	}
	return p.in.read()
}

// write sends b on and counts it.
func (p *pump) write(b []byte) error {
	n, err := p.out.Write(b)
	p.bytes += int64(n)
	if p.count != nil {
		p.count.Bytes.Add(int64(n))
		if done := p.follow.messages; done != p.messages {
			p.count.Messages.Add(done - p.messages)
			p.messages = done
		}
	}
	return err
}

func newSplice(client, agent net.Conn, fromClient, fromAgent []byte, opt Options) *Splice {
	s := &Splice{opt: opt, client: client, agent: agent}
	s.down = pump{
		follow: follower{from: Agent, limit: opt.MaxMessageBytes, slack: opt.Envelope, limitName: opt.LimitName},
		out:    client, count: opt.ToClient, early: nonEmpty(fromAgent),
	}
	s.up = pump{
		follow: follower{from: Client, limit: opt.MaxMessageBytes, limitName: opt.LimitName},
		out:    agent, count: opt.ToAgent, early: nonEmpty(fromClient),
	}
	s.down.in.start(agent)
	s.up.in.start(client)
	boundSilence(client, opt.StallLimit)
	boundSilence(agent, opt.StallLimit)
	return s
}

func nonEmpty(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// Run copies until the connection has ended, closes both sides and says how it
// ended. It is called once. It starts one goroutine and joins it.
func (s *Splice) Run() Result {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.toAgent()
	}()
	if polite := s.toClient(); polite {
		// What the client sends until it has answered the close frame is
		// still read: closing a socket with unread bytes resets it, and the
		// close frame could be lost on its way.
		_ = s.client.SetReadDeadline(time.Now().Add(s.opt.CloseWait))
		<-done
	}
	_ = s.client.Close()
	_ = s.agent.Close()
	<-done

	r := *s.result.Load()
	r.MessagesToClient, r.BytesToClient = s.down.follow.messages, s.down.bytes
	r.MessagesToAgent, r.BytesToAgent = s.up.follow.messages, s.up.bytes
	return r
}

// ended records how the connection ended; the first to say it is right.
func (s *Splice) ended(by Party, code int, err error) {
	s.result.CompareAndSwap(nil, &Result{By: by, Code: code, Err: err})
}

// toClient copies from the agent to the client, and is the only writer to the
// client. It returns when nothing more will be written, and whether the client
// got a close frame that it may still answer.
func (s *Splice) toClient() (polite bool) {
	p := &s.down
	for {
		e := s.end.Load()
		if e != nil {
			until := e.deadline
			if p.follow.idle() {
				if !s.settling(e) {
					return s.farewell(e)
				}
				until = e.settle
			}
			_ = s.agent.SetReadDeadline(until)
		}
		if s.gone.Load() {
			return false
		}
		chunk, err := p.next()
		if err != nil {
			e = s.end.Load()
			switch {
			case s.result.Load() != nil: // by toAgent: the client is gone, or has closed and the agent does not answer
				return false
			case e != nil && errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(e.deadline):
				continue // woken by End
			case e == nil:
				e = s.lost(err)
			}
			return s.farewell(e)
		}
		e = s.end.Load()
		at, bad := p.follow.follow(chunk)
		cut := e != nil && at.boundary >= 0
		switch {
		case cut && at.asked >= 0: // what follows the ping waits in the agent's log
			at.forward, p.follow.messages, p.follow.unasked = at.asked, at.messages, false
		case cut && s.settling(e):
			cut = false
		case cut:
			at.forward = at.boundary
		}
		if cut {
			bad = nil
			p.follow.remain, p.follow.open, p.follow.closed = 0, false, false
		}
		if p.follow.closed {
			// Before the frame is on its way: its answer may come at once.
			s.ended(Agent, p.follow.closeCode, nil)
		}
		err = s.writeClient(chunk[:at.forward])
		p.in.hold(chunk[at.forward:])
		p.in.release()
		switch {
		case err != nil:
			s.ended(Client, codeAbnormal, err)
			return false
		case cut:
			return s.farewell(e)
		case bad != nil:
			return s.farewell(s.violated(bad))
		case p.follow.closed:
			return true
		}
	}
}

// settling reports whether an ending still waits for a ping behind the data that
// the client has got.
func (s *Splice) settling(e *ending) bool {
	return s.down.follow.unasked && time.Now().Before(e.settle)
}

// writeClient sends b on to the client.
func (s *Splice) writeClient(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if s.down.arm(s.opt.StallLimit) {
		if e := s.end.Load(); e != nil {
			_ = s.client.SetWriteDeadline(e.deadline)
		}
		if s.gone.Load() {
			_ = s.client.SetWriteDeadline(time.Unix(1, 0))
		}
	}
	return s.down.write(b)
}

// arm sets the deadline of the next write, and reports whether it did. A
// deadline that was set a moment ago is left, which shortens the limit by an
// eighth at most.
func (p *pump) arm(limit time.Duration) bool {
	now := time.Now()
	if now.Sub(p.armed) < limit/8 {
		return false
	}
	p.armed = now
	_ = p.out.SetWriteDeadline(now.Add(limit))
	return true
}

// lost makes the ending for an agent that hung up without a close frame.
func (s *Splice) lost(err error) *ending {
	f := Farewell{Code: codeInternal, Reason: "the connection to the kernel was lost"}
	if s.opt.AgentLost != nil && s.down.follow.between() {
		f = s.opt.AgentLost()
		if e := s.end.Load(); e != nil {
			return e
		}
	}
	return &ending{Farewell: f, by: Agent, err: hangUp(err)}
}

// violated makes the ending for an agent that broke a rule.
func (s *Splice) violated(v *Violation) *ending {
	s.deaf.Store(true)
	return &ending{Farewell: Farewell{Code: v.Code, Reason: v.Problem}, by: Gateway, err: v}
}

// farewell writes what e says, if the client is where a frame may begin.
func (s *Splice) farewell(e *ending) (polite bool) {
	if !s.down.follow.between() {
		s.ended(e.by, codeAbnormal, e.err)
		return false
	}
	s.ended(e.by, e.Code, e.err)
	var b []byte
	if e.Message != nil && s.down.follow.idle() {
		b = appendFrame(b, byte(cmp.Or(e.Opcode, Text)), e.Message)
	}
	b = appendClose(b, e.Code, e.Reason)
	_ = s.client.SetWriteDeadline(time.Now().Add(s.opt.CloseWait))
	_, err := s.client.Write(b)
	return err == nil
}

// toAgent copies from the client to the agent, and is the only writer to the
// agent. It returns when the client has sent its close frame or nothing more
// can be read from it.
func (s *Splice) toAgent() {
	p := &s.up
	broken := false // the client's frames can no longer be told apart
	for {
		chunk, err := p.next()
		if err != nil {
			s.ended(Client, codeAbnormal, hangUp(err))
			s.gone.Store(true)
			_ = s.agent.SetReadDeadline(time.Unix(1, 0))
			_ = s.client.SetWriteDeadline(time.Unix(1, 0))
			return
		}
		if broken {
			p.in.release()
			continue
		}
		at, bad := p.follow.follow(chunk)
		if p.follow.closed {
			s.ended(Client, p.follow.closeCode, nil)
		}
		err = s.writeAgent(chunk[:at.forward])
		p.in.hold(chunk[at.forward:])
		p.in.release()
		switch {
		case bad != nil:
			broken = true
			s.endWith(Farewell{Code: bad.Code, Reason: bad.Problem, Mute: true}, Gateway, bad)
		case p.follow.closed:
			_ = s.agent.SetReadDeadline(time.Now().Add(s.opt.CloseWait))
			return
		case err != nil:
			// toClient still reads what the agent said last, and takes leave.
			s.deaf.Store(true)
			_ = s.agent.SetReadDeadline(time.Now().Add(s.opt.CloseWait))
		}
	}
}

// writeAgent sends b on to the agent, unless the client is not to be heard.
func (s *Splice) writeAgent(b []byte) error {
	if len(b) == 0 || s.deaf.Load() {
		return nil
	}
	s.up.arm(s.opt.StallLimit)
	return s.up.write(b)
}

// hangUp is err, or nil when it only says that the peer closed its connection.
func hangUp(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// boundSilence makes the system give up on a TCP peer that has vanished, idle
// or not, after about limit.
func boundSilence(conn net.Conn, limit time.Duration) {
	if inner, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = inner.NetConn()
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: limit / 3, Interval: limit / 9, Count: 6})
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
		})
	}
}
