package splice

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pair is a running splice over pipes, its two peers in the test's hands. A
// pipe has no buffer: what was written has been read.
type pair struct {
	*Splice
	t             *testing.T
	client, agent net.Conn
	results       chan Result
	start         time.Time
}

// withPair runs story in a bubble of its own, where time passes when all wait.
func withPair(t *testing.T, opt Options, story func(p *pair)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		client, clientSide := net.Pipe()
		agent, agentSide := net.Pipe()
		p := &pair{
			Splice: newSplice(clientSide, agentSide, nil, nil, opt.withDefaults()),
			t:      t, client: client, agent: agent,
			results: make(chan Result, 1), start: time.Now(),
		}
		go func() { p.results <- p.Run() }()
		story(p)
		_ = client.Close()
		_ = agent.Close()
	})
}

func (p *pair) write(c net.Conn, b []byte) {
	p.t.Helper()
	if _, err := c.Write(b); err != nil {
		p.t.Errorf("write: %v", err)
	}
}

func (p *pair) expect(c net.Conn, want []byte) {
	p.t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		p.t.Fatalf("read %d bytes %.60q, %v; want %.60q", n, got[:n], err, want)
	}
}

func (p *pair) expectEOF(c net.Conn) {
	p.t.Helper()
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
		p.t.Fatalf("read %q, %v; want the end", b, err)
	}
}

// expectResult waits for Run to return, and checks the time that passed.
func (p *pair) expectResult(by Party, code int, after time.Duration) Result {
	p.t.Helper()
	r := <-p.results
	if r.By != by || r.Code != code {
		p.t.Errorf("ended by %s with %d (%v), want %s with %d", r.By, r.Code, r.Err, by, code)
	}
	if passed := time.Since(p.start); passed != after {
		p.t.Errorf("it took %v, want %v", passed, after)
	}
	return r
}

func closeFrame(from Party, code int, reason string) []byte {
	b := appendClose(nil, code, reason)
	return frame(from, b[0], b[2:])
}

var hello = []byte("hello")

func TestCopiesBothWaysAndCounts(t *testing.T) {
	var toClient, toAgent Traffic
	withPair(t, Options{ToClient: &toClient, ToAgent: &toAgent}, func(p *pair) {
		request := join(frame(Client, 0x82, hello), frame(Client, 0x8a, []byte("17")))
		p.write(p.client, request)
		p.expect(p.agent, request)
		answer := join(frame(Agent, 0x89, []byte("18")), frame(Agent, 0x01, hello), frame(Agent, 0x89, nil), frame(Agent, 0x80, nil), frame(Agent, 0x82, make([]byte, 300)))
		p.write(p.agent, answer)
		p.expect(p.client, answer)
		synctest.Wait()
		if n, b := toClient.Messages.Load(), toClient.Bytes.Load(); n != 2 || b != int64(len(answer)) {
			t.Errorf("to the client: %d messages, %d bytes", n, b)
		}
		if n, b := toAgent.Messages.Load(), toAgent.Bytes.Load(); n != 1 || b != int64(len(request)) {
			t.Errorf("to the agent: %d messages, %d bytes", n, b)
		}
		_ = p.client.Close()
		r := p.expectResult(Client, 1006, 0)
		if r.MessagesToClient != 2 || r.MessagesToAgent != 1 || r.BytesToClient != int64(len(answer)) || r.BytesToAgent != int64(len(request)) {
			t.Errorf("result %+v", r)
		}
		p.expectEOF(p.agent)
	})
}

func TestHeaderInPiecesIsPassedOnWhole(t *testing.T) {
	withPair(t, Options{}, func(p *pair) {
		whole := frame(Agent, 0x82, make([]byte, 70000))
		for _, b := range whole[:9] {
			p.write(p.agent, []byte{b})
		}
		_ = p.client.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := p.client.Read(make([]byte, 1)); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a piece of a header crossed: %d, %v", n, err)
		}
		_ = p.client.SetReadDeadline(time.Time{})
		go p.write(p.agent, whole[9:])
		p.expect(p.client, whole)
	})
}

func TestDrainAtABoundarySendsTheLastMessageAndCloses(t *testing.T) {
	withPair(t, Options{}, func(p *pair) {
		p.End(Farewell{Message: hello, Opcode: Binary, Code: 1012, Reason: "restarting"})
		p.End(Farewell{Code: 1000}) // too late to count
		p.expect(p.client, join(frame(Agent, 0x82, hello), closeFrame(Agent, 1012, "restarting")))
		// What was under way still reaches the agent, then the answer.
		last := join(frame(Client, 0x8a, []byte("17")), frame(Client, 0x81, hello), closeFrame(Client, 1012, ""))
		p.write(p.client, last)
		p.expect(p.agent, last)
		p.expectEOF(p.client)
		if r := p.expectResult(Gateway, 1012, 0); r.Err != nil {
			t.Errorf("error %v", r.Err)
		}
		p.expectEOF(p.agent)
	})
}

// What the client has got when it is sent away was asked to be acknowledged, so
// that nothing comes twice.
func TestDrainSettlesBehindAPing(t *testing.T) {
	farewell := Farewell{Code: 1012, Settle: 200 * time.Millisecond}
	bye := closeFrame(Agent, 1012, "")
	ping := frame(Agent, finBit|opPing, []byte("7"))
	text := frame(Agent, finBit|byte(Text), []byte("output"))

	t.Run("that comes", func(t *testing.T) {
		withPair(t, Options{}, func(p *pair) {
			go p.write(p.agent, text)
			p.expect(p.client, text)
			p.End(farewell)
			time.Sleep(50 * time.Millisecond)
			go p.write(p.agent, append(append(bytes.Clone(text), ping...), text...))
			p.expect(p.client, text)
			p.expect(p.client, ping)
			p.expect(p.client, bye) // and not the text behind the ping
			go p.write(p.client, closeFrame(Client, 1012, ""))
			p.expect(p.agent, closeFrame(Client, 1012, ""))
			if r := p.expectResult(Gateway, 1012, 50*time.Millisecond); r.MessagesToClient != 2 {
				t.Errorf("%d messages to the client, want 2", r.MessagesToClient)
			}
		})
	})
	t.Run("that came already", func(t *testing.T) {
		withPair(t, Options{}, func(p *pair) {
			go p.write(p.agent, append(bytes.Clone(text), ping...))
			p.expect(p.client, append(bytes.Clone(text), ping...))
			p.End(farewell)
			p.expect(p.client, bye)
			go p.write(p.client, closeFrame(Client, 1012, ""))
			p.expect(p.agent, closeFrame(Client, 1012, ""))
			p.expectResult(Gateway, 1012, 0)
		})
	})
	t.Run("that never comes", func(t *testing.T) {
		withPair(t, Options{}, func(p *pair) {
			go p.write(p.agent, text)
			p.expect(p.client, text)
			p.End(farewell)
			time.Sleep(10 * time.Millisecond)
			go p.write(p.agent, text)
			p.expect(p.client, text)
			p.expect(p.client, bye)
			go p.write(p.client, closeFrame(Client, 1012, ""))
			p.expect(p.agent, closeFrame(Client, 1012, ""))
			p.expectResult(Gateway, 1012, 200*time.Millisecond)
		})
	})
}

func TestDrainBeforeRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, clientSide := net.Pipe()
		agent, agentSide := net.Pipe()
		s := newSplice(clientSide, agentSide, nil, nil, Options{}.withDefaults())
		s.End(Farewell{Code: 1012})
		go func() { _, _ = io.Copy(io.Discard, client); _ = client.Close() }()
		go func() { _, _ = io.Copy(io.Discard, agent); _ = agent.Close() }()
		if r := s.Run(); r.By != Gateway || r.Code != 1012 {
			t.Errorf("%+v", r)
		}
	})
}

func TestDrainInMidMessageWaitsForItsEnd(t *testing.T) {
	withPair(t, Options{}, func(p *pair) {
		first := join(frame(Agent, 0x01, hello), claim(Agent, 0x80, 4), []byte("ab"))
		go p.write(p.agent, first)
		p.expect(p.client, first)
		p.End(Farewell{Message: hello, Code: 1012})
		time.Sleep(2 * time.Second) // no boundary yet; the bubble's time, not ours
		// What is whole by then still goes; what is not is for the next connection.
		go p.write(p.agent, join([]byte("cd"), frame(Agent, 0x82, hello), frame(Agent, 0x01, hello)))
		p.expect(p.client, join([]byte("cd"), frame(Agent, 0x82, hello), frame(Agent, 0x81, hello), closeFrame(Agent, 1012, "")))
		_ = p.client.Close()
		p.expectResult(Gateway, 1012, 2*time.Second)
	})
}

func TestDrainInMidFrameIsCutWhenNoBoundaryComes(t *testing.T) {
	withPair(t, Options{}, func(p *pair) {
		half := claim(Agent, 0x81, 100)
		p.write(p.agent, half)
		p.expect(p.client, half)
		p.End(Farewell{Message: hello, Code: 1012})
		p.expectEOF(p.client)
		p.expectResult(Gateway, 1006, DefaultBoundaryWait)
	})
}

func TestDrainBetweenFragmentsClosesWithoutTheMessage(t *testing.T) {
	withPair(t, Options{}, func(p *pair) {
		half := frame(Agent, 0x01, hello)
		p.write(p.agent, half)
		p.expect(p.client, half)
		p.End(Farewell{Message: hello, Code: 1012})
		p.expect(p.client, closeFrame(Agent, 1012, ""))
		_ = p.client.Close()
		p.expectResult(Gateway, 1012, DefaultBoundaryWait)
	})
}

func TestDrainOfAClientThatDoesNotReadIsCut(t *testing.T) {
	withPair(t, Options{}, func(p *pair) {
		p.write(p.agent, frame(Agent, 0x81, hello)) // and the client does not take it
		p.End(Farewell{Code: 1012})
		p.expectResult(Client, 1006, DefaultBoundaryWait)
		p.expectEOF(p.agent)
	})
}

func TestClientThatDoesNotAnswerTheCloseFrameIsCut(t *testing.T) {
	withPair(t, Options{}, func(p *pair) {
		p.End(Farewell{Code: 1000})
		p.expect(p.client, closeFrame(Agent, 1000, ""))
		p.expectResult(Gateway, 1000, DefaultCloseWait)
	})
}

func TestRevokedClientIsNotHeardAnyMore(t *testing.T) {
	withPair(t, Options{}, func(p *pair) {
		half := claim(Agent, 0x81, 2)
		p.write(p.agent, half)
		p.expect(p.client, half)
		p.End(Farewell{Code: 1008, Reason: "the token was revoked", Mute: true})
		p.write(p.client, frame(Client, 0x81, []byte("rm -rf")))
		go p.write(p.agent, []byte("ab"))
		p.expect(p.client, join([]byte("ab"), closeFrame(Agent, 1008, "the token was revoked")))
		p.write(p.client, closeFrame(Client, 1008, ""))
		r := p.expectResult(Gateway, 1008, 0)
		if r.BytesToAgent != 0 {
			t.Errorf("%d bytes reached the agent", r.BytesToAgent)
		}
		p.expectEOF(p.agent)
	})
}

func TestSlowClientStallsItselfAndIsCutAtTheStallLimit(t *testing.T) {
	withPair(t, Options{}, func(p *pair) {
		p.write(p.agent, frame(Agent, 0x81, hello))
		synctest.Wait()
		// Back-pressure: with one read in hand nothing more is taken from the agent.
		_ = p.agent.SetWriteDeadline(time.Now().Add(time.Second))
		if n, err := p.agent.Write([]byte{0x81}); n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the agent could write %d bytes, %v", n, err)
		}
		r := p.expectResult(Client, 1006, DefaultStallLimit)
		if !errors.Is(r.Err, os.ErrDeadlineExceeded) {
			t.Errorf("error %v", r.Err)
		}
		p.expectEOF(p.agent)
	})
}

func TestSlowClientThatReadsInTimeIsKept(t *testing.T) {
	withPair(t, Options{}, func(p *pair) {
		for range 5 {
			p.write(p.agent, frame(Agent, 0x81, hello))
			time.Sleep(DefaultStallLimit - DefaultStallLimit/8 - time.Second) // the bubble's time
			p.expect(p.client, frame(Agent, 0x81, hello))
		}
	})
}

func TestStalledAgentIsLostAtTheStallLimit(t *testing.T) {
	withPair(t, Options{}, func(p *pair) {
		p.write(p.client, frame(Client, 0x81, hello)) // and the agent does not take it
		b := closeFrame(Agent, 1011, "the connection to the kernel was lost")
		p.expect(p.client, b)
		p.write(p.client, closeFrame(Client, 1011, ""))
		p.expectResult(Agent, 1011, DefaultStallLimit+DefaultCloseWait)
	})
}

func TestClosedByClient(t *testing.T) {
	withPair(t, Options{}, func(p *pair) {
		bye := closeFrame(Client, 1000, "")
		p.write(p.client, bye)
		p.expect(p.agent, bye)
		answer := join(frame(Agent, 0x81, hello), closeFrame(Agent, 1000, ""))
		p.write(p.agent, answer)
		p.expect(p.client, answer)
		if r := p.expectResult(Client, 1000, 0); r.Err != nil {
			t.Errorf("error %v", r.Err)
		}
	})
}

func TestClosedByClientAndTheAgentDoesNotAnswer(t *testing.T) {
	withPair(t, Options{}, func(p *pair) {
		bye := frame(Client, 0x88, nil)
		p.write(p.client, bye)
		p.expect(p.agent, bye)
		p.expectResult(Client, 1005, DefaultCloseWait)
	})
}

func TestClosedByAgentAndNothingMoreCrosses(t *testing.T) {
	withPair(t, Options{}, func(p *pair) {
		bye := closeFrame(Agent, 1000, "kernel shut down")
		p.write(p.agent, join(bye, frame(Agent, 0x81, hello)))
		p.expect(p.client, bye)
		answer := closeFrame(Client, 1000, "")
		p.write(p.client, answer)
		p.expect(p.agent, answer)
		p.expectEOF(p.client)
		p.expectResult(Agent, 1000, 0)
	})
}

func TestLostAgentIsExplainedToTheClient(t *testing.T) {
	farewell := Farewell{Message: []byte(`{"dead":true}`), Code: 1000, Reason: "killed: memory limit"}
	opt := Options{AgentLost: func() Farewell {
		time.Sleep(time.Second) // as when the driver is asked; the bubble's time
		return farewell
	}}
	withPair(t, opt, func(p *pair) {
		_ = p.agent.Close()
		p.expect(p.client, join(frame(Agent, 0x81, farewell.Message), closeFrame(Agent, 1000, "killed: memory limit")))
		p.write(p.client, closeFrame(Client, 1000, ""))
		if r := p.expectResult(Agent, 1000, time.Second); r.Err != nil {
			t.Errorf("error %v", r.Err)
		}
	})
}

func TestLostAgentInMidFrameIsCut(t *testing.T) {
	opt := Options{AgentLost: func() Farewell { t.Error("asked for a farewell that cannot be said"); return Farewell{} }}
	withPair(t, opt, func(p *pair) {
		half := claim(Agent, 0x81, 100)
		p.write(p.agent, half)
		p.expect(p.client, half)
		_ = p.agent.Close()
		p.expectEOF(p.client)
		p.expectResult(Agent, 1006, 0)
	})
}

func TestClientThatHangsUpWhileTheAgentIsInMidMessage(t *testing.T) {
	withPair(t, Options{}, func(p *pair) {
		half := claim(Agent, 0x81, 100)
		p.write(p.agent, half)
		p.expect(p.client, half)
		p.End(Farewell{Code: 1012}) // waits for a boundary that nobody needs
		synctest.Wait()
		_ = p.client.Close()
		p.expectEOF(p.agent)
		p.expectResult(Client, 1006, 0)
	})
}

// Attacks of a client. The agent gets nothing of the bad frame, the client a
// close frame that says why.
func TestHostileClient(t *testing.T) {
	const limit = 1 << 20
	for name, tc := range map[string]struct {
		bad    []byte
		code   int
		reason string
	}{
		"bad RSV":                    {frame(Client, 0xc1, hello), 1002, "reserved bits are set and no extension was negotiated"},
		"unmasked frame":             {frame(Agent, 0x81, hello), 1002, "a client frame is not masked"},
		"claim of 2^63 bytes":        {claim(Client, 0x82, 1<<63), 1009, "a message is longer than the limit of 1 MiB"},
		"claim of 200 MB":            {claim(Client, 0x82, 200_000_000), 1009, "a message is longer than the limit of 1 MiB"},
		"control frame over 125":     {frame(Client, 0x89, make([]byte, 126)), 1002, "a control frame is longer than 125 bytes"},
		"fragment without beginning": {frame(Client, 0x80, hello), 1002, "a continuation without a message to continue"},
	} {
		t.Run(name, func(t *testing.T) {
			withPair(t, Options{MaxMessageBytes: limit}, func(p *pair) {
				good := frame(Client, 0x81, hello)
				go func() { _, _ = p.client.Write(join(good, tc.bad, make([]byte, 1<<16))) }()
				p.expect(p.agent, good)
				p.expect(p.client, closeFrame(Agent, tc.code, tc.reason))
				_ = p.client.Close()
				r := p.expectResult(Gateway, tc.code, 0)
				var v *Violation
				if !errors.As(r.Err, &v) || v.From != Client {
					t.Errorf("error %v", r.Err)
				}
				p.expectEOF(p.agent)
			})
		})
	}
}

func TestHostileClientThatFloodsAfterItsViolationIsCut(t *testing.T) {
	withPair(t, Options{}, func(p *pair) {
		p.write(p.client, frame(Agent, 0x81, hello))
		got := closeFrame(Agent, 1002, "a client frame is not masked")
		p.expect(p.client, got)
		flooded := make(chan struct{})
		go func() {
			defer close(flooded)
			for {
				if _, err := p.client.Write(make([]byte, 100)); err != nil {
					return
				}
				time.Sleep(30 * time.Millisecond) // the bubble's time
			}
		}()
		r := p.expectResult(Gateway, 1002, DefaultCloseWait)
		<-flooded
		if r.BytesToAgent != 0 {
			t.Errorf("%d bytes reached the agent", r.BytesToAgent)
		}
	})
}

// Attacks of an agent. The client gets nothing of the bad frame.
func TestHostileAgent(t *testing.T) {
	const limit = 1 << 20
	for name, tc := range map[string]struct {
		bad    []byte
		code   int
		reason string
	}{
		"bad RSV":                {frame(Agent, 0xc1, hello), 1002, "reserved bits are set and no extension was negotiated"},
		"masked frame":           {frame(Client, 0x81, hello), 1002, "a server frame is masked"},
		"claim of 2^63 bytes":    {claim(Agent, 0x82, 1<<63), 1009, "a message is longer than the limit of 1 MiB"},
		"fragmented bomb":        {nil, 1009, "a message is longer than the limit of 1 MiB"},
		"control frame over 125": {frame(Agent, 0x8a, make([]byte, 126)), 1002, "a control frame is longer than 125 bytes"},
		"undefined opcode":       {frame(Agent, 0x87, hello), 1002, "opcode 7 is not defined"},
	} {
		t.Run(name, func(t *testing.T) {
			withPair(t, Options{MaxMessageBytes: limit}, func(p *pair) {
				good, bad := frame(Agent, 0x81, hello), tc.bad
				if bad == nil { // 32 fragments of 32 KiB are the limit, nearly
					good = append(good, frame(Agent, 0x02, make([]byte, 32<<10))...)
					good = append(good, bytes.Repeat(frame(Agent, 0x00, make([]byte, 32<<10)), 30)...)
					bad = frame(Agent, 0x00, make([]byte, 32<<10))
				}
				go func() { _, _ = p.agent.Write(join(good, bad, frame(Agent, 0x81, hello))) }()
				p.expect(p.client, join(good, closeFrame(Agent, tc.code, tc.reason)))
				p.write(p.client, closeFrame(Client, tc.code, ""))
				r := p.expectResult(Gateway, tc.code, 0)
				var v *Violation
				if !errors.As(r.Err, &v) || v.From != Agent || !strings.Contains(v.Error(), tc.reason) {
					t.Errorf("error %v", r.Err)
				}
			})
		})
	}
}
