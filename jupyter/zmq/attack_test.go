package zmq

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"kernelgw/jupyter"
)

// assertMemory runs f and fails when it allocated more than limit in total.
func assertMemory(t *testing.T, limit uint64, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > limit {
		t.Errorf("%d bytes were allocated, more than %d", n, limit)
	}
}

func longHeader(size uint64) []byte { return binary.BigEndian.AppendUint64([]byte{flagLong}, size) }

func TestKernelSends2Pow49ByteFrame(t *testing.T) { testClaim(t, 1<<49) }
func TestKernelClaims8GiB(t *testing.T)           { testClaim(t, 8<<30) }
func TestKernelClaimsAllOf64Bits(t *testing.T)    { testClaim(t, 1<<64-1) }

// testClaim sends the header of a frame and none of it.
func testClaim(t *testing.T, size uint64) {
	assertMemory(t, 4<<20, func() {
		_, got, err := attack(t, Options{}, func(conn net.Conn) {
			conn.Write(signed(testKey, stream("before")))
			conn.Write(longHeader(size))
			drain(conn)
		})
		if !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "iopub") {
			t.Errorf("Run ended with %v, want ErrProtocol that names iopub", err)
		}
		if len(got) != 1 {
			t.Errorf("%d messages from before the attack, want 1", len(got))
		}
	})
}

func TestKernelClaimsManyFramesThatAddUp(t *testing.T) {
	const limit = 1 << 20
	assertMemory(t, 8*limit, func() {
		_, _, err := attack(t, Options{MaxMessageBytes: limit}, func(conn net.Conn) {
			frame := append(longHeader(limit/2), make([]byte, limit/2)...)
			frame[0] |= flagMore
			for {
				if _, err := conn.Write(frame); err != nil {
					return
				}
			}
		})
		if !errors.Is(err, ErrProtocol) {
			t.Errorf("Run ended with %v, want ErrProtocol", err)
		}
	})
}

func TestKernelSendsEmptyFramesForEver(t *testing.T) {
	assertMemory(t, 8<<20, func() {
		c, got, _ := attack(t, Options{}, func(conn net.Conn) {
			chunk := bytes.Repeat([]byte{flagMore, 0}, 32<<10)
			for range 16 { // a million frames
				conn.Write(chunk)
			}
			conn.Write([]byte{0, 0})
			conn.Write(signed(testKey, stream("after")))
		})
		if len(got) != 1 || c.Stats().TooLarge != 1 {
			t.Errorf("%d messages after the attack, want 1; stats %+v", len(got), c.Stats())
		}
	})
}

func TestKernelNeverGreets(t *testing.T) {
	for _, tc := range []struct {
		name string
		sent []byte
	}{
		{"silent", nil},
		{"greets and stops", greeting()},
		{"half a READY", append(greeting(), ready("XPUB")[:9]...)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHostile(t, jupyter.IOPub)
			go func() { (<-h.conns).Write(tc.sent) }()
			start := time.Now()
			_, err := Dial(t.Context(), h.info, Options{HandshakeTimeout: 50 * time.Millisecond})
			if err == nil || !strings.Contains(err.Error(), "no ZeroMQ handshake within 50ms") {
				t.Errorf("Dial: %v, want an error that names the handshake and its time", err)
			}
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("Dial took %v", d)
			}
		})
	}
}

func TestDialEndsWithItsContextDuringTheHandshake(t *testing.T) {
	h := newHostile(t, jupyter.IOPub)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-h.conns
		cancel()
	}()
	if _, err := Dial(ctx, h.info, Options{HandshakeTimeout: time.Hour}); !errors.Is(err, context.Canceled) {
		t.Errorf("Dial: %v, want the context's error", err)
	}
}

func TestKernelHandshakes(t *testing.T) {
	long := string(bytes.Repeat([]byte("x"), 300))
	for _, tc := range []struct {
		name string
		sent []byte
		want string
	}{
		{"not ZeroMQ", []byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nthis is no kernel at all, go away"), "greeting"},
		{"closes", nil, "EOF"},
		{"unknown socket type", append(greeting(), ready("FOO")...), `its socket is a "FOO"`},
		{"no socket type", append(greeting(), command("READY", nil)...), `its socket is a ""`},
		{"wrong socket type", append(greeting(), ready("PUSH")...), `its socket is a "PUSH"`},
		{"several words as socket type", append(greeting(), ready("PUB XPUB")...), "its socket is a"},
		{"two socket types", append(greeting(), command("READY", append(property("Socket-Type", "XPUB"), property("socket-type", "FOO")...))...), "two socket types"},
		{"name that folds to Socket-Type", append(greeting(), command("READY", append(property("Socket-Type", "XPUB"), property("ſocket-Type", "FOO")...))...), "two socket types"},
		{"property longer than the command", append(greeting(), command("READY", []byte("\x0bSocket-Type\xff\xff\xff\xffXPUB"))...), "truncated property"},
		{"name longer than the command", append(greeting(), command("READY", []byte("\xffSocket"))...), "truncated property"},
		{"name without length of value", append(greeting(), command("READY", []byte("\x0bSocket-Type"))...), "truncated property"},
		{"command name longer than the command", append(greeting(), flagCommand, 3, 0xff, 'R', 'E'), "truncated command"},
		{"empty command", append(greeting(), flagCommand, 0), "command of 0 bytes"},
		{"other command", append(greeting(), command("ERROR", []byte("\x03bad"))...), `command "ERROR"`},
		{"message in the handshake", append(greeting(), 0, 2, 'h', 'i'), "a message during the handshake"},
		{"READY of 8 GiB", append(append(greeting(), flagCommand|flagLong), 0, 0, 0, 2, 0, 0, 0, 0), "a command of"},
		{"READY with more to follow", append(greeting(), flagCommand|flagMore, 6, 5, 'R', 'E', 'A', 'D', 'Y'), "frame flags"},
		{"reserved flags", append(greeting(), 0x84, 6, 5, 'R', 'E', 'A', 'D', 'Y'), "frame flags"},
		{"long value", append(greeting(), command("READY", property("X", long[:200]))...), `its socket is a ""`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHostile(t, jupyter.IOPub)
			go func() {
				conn := <-h.conns
				conn.Write(tc.sent)
				conn.(*net.TCPConn).CloseWrite()
			}()
			assertMemory(t, 4<<20, func() {
				_, err := Dial(t.Context(), h.info, Options{})
				if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "iopub") {
					t.Errorf("Dial: %v, want an error with %q that names iopub", err, tc.want)
				}
			})
		})
	}
}

// The name of a property is not case-sensitive, and zmq4 panics at this one.
func TestKernelSpellsSocketTypeItsOwnWay(t *testing.T) {
	h := newHostile(t, jupyter.IOPub)
	go func() {
		conn := <-h.conns
		conn.Write(append(greeting(), command("READY", property("SOcket-TYPE", "XPUB"))...))
	}()
	c, err := Dial(t.Context(), h.info, Options{})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestKernelWrongHMAC(t *testing.T) {
	big := stream(strings.Repeat("x", DefaultVerifyBytes))
	for _, tc := range []struct {
		name     string
		options  Options
		sent     [][]byte
		messages int
		unsigned uint64
	}{
		{"small", Options{}, [][]byte{signed("other", stream("a")), signed(testKey, stream("b"))}, 1, 1},
		{"empty signature", Options{}, [][]byte{signed("", stream("a"))}, 0, 1},
		{"large, before any right one", Options{}, [][]byte{signed("other", big)}, 0, 1},
		{"large, after a wrong one", Options{}, [][]byte{signed("other", stream("a")), signed("other", big)}, 0, 2},
		{"large, after a right one, is not checked", Options{}, [][]byte{signed(testKey, stream("a")), signed("other", big)}, 2, 0},
		{"large, when all are checked", Options{VerifyBytes: -1}, [][]byte{signed(testKey, stream("a")), signed("other", big)}, 1, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, got, err := attack(t, tc.options, func(conn net.Conn) {
				for _, b := range tc.sent {
					conn.Write(b)
				}
			})
			if !errors.Is(err, io.EOF) {
				t.Errorf("Run ended with %v; a wrong signature must not end it", err)
			}
			if len(got) != tc.messages || c.Stats().Unsigned != tc.unsigned {
				t.Errorf("%d messages, %d unsigned; want %d, %d", len(got), c.Stats().Unsigned, tc.messages, tc.unsigned)
			}
		})
	}
}

func TestKernelTruncatedMultipart(t *testing.T) {
	m := stream("a")
	sig := []byte(jupyter.Sign([]byte(testKey), m))
	for _, tc := range []struct {
		name   string
		frames [][]byte
	}{
		{"one empty frame", [][]byte{{}}},
		{"topic only", [][]byte{[]byte("topic")}},
		{"delimiter only", [][]byte{delimiter}},
		{"no header", [][]byte{delimiter, sig}},
		{"header only", [][]byte{delimiter, sig, m.Header}},
		{"no content", [][]byte{[]byte("t"), delimiter, sig, m.Header, m.ParentHeader, m.Metadata}},
		{"no delimiter", [][]byte{sig, m.Header, m.ParentHeader, m.Metadata, m.Content}},
		{"empty header", [][]byte{delimiter, sig, {}, m.ParentHeader, m.Metadata, m.Content}},
		{"header no object", [][]byte{delimiter, sig, []byte("[1]"), m.ParentHeader, m.Metadata, m.Content}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, got, err := attack(t, Options{}, func(conn net.Conn) {
				conn.Write(multipart(tc.frames...))
				conn.Write(signed(testKey, stream("after")))
			})
			if !errors.Is(err, io.EOF) {
				t.Errorf("Run ended with %v; a malformed message must not end it", err)
			}
			if len(got) != 1 || c.Stats().Malformed != 1 {
				t.Errorf("%d messages after it, want 1; %d malformed, want 1", len(got), c.Stats().Malformed)
			}
		})
	}
}

func TestKernelClosesInTheMiddle(t *testing.T) {
	whole := signed(testKey, stream("a"))
	for _, n := range []int{1, 5, 9, 10, len(whole) - 1} {
		_, got, err := attack(t, Options{}, func(conn net.Conn) { conn.Write(whole[:n]) })
		if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) || len(got) != 0 {
			t.Errorf("after %d bytes: %d messages, %v", n, len(got), err)
		}
	}
}

func TestKernelInvalidUTF8(t *testing.T) {
	m := stream("")
	m.Content = []byte("{\"name\":\"stdout\",\"text\":\"\xff\xfe\"}")
	_, got, _ := attack(t, Options{}, func(conn net.Conn) { conn.Write(signed(testKey, m)) })
	if len(got) != 1 || !bytes.Equal(got[0].Content, m.Content) {
		t.Errorf("the bytes were not relayed as they were: %d messages", len(got))
	}
}

func TestKernelSendsTooLargeMessage(t *testing.T) {
	const limit = 64 << 10
	for _, tc := range []struct {
		name   string
		change func(m *jupyter.Message)
		header string // "whole" or "none"
	}{
		{"content", func(m *jupyter.Message) { m.Content = fill('c', 8*limit) }, "whole"},
		{"metadata", func(m *jupyter.Message) { m.Metadata = fill('m', 2*limit) }, "whole"},
		{"buffers", func(m *jupyter.Message) { m.Buffers = [][]byte{fill('b', limit/2), fill('b', limit), fill('b', limit)} }, "whole"},
		{"header", func(m *jupyter.Message) { m.Header = fill('h', 2*limit) }, "none"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := stream("a")
			m.ParentHeader = []byte(`{"msg_id":"parent"}`)
			tc.change(m)
			var cut []*jupyter.Message
			var size int64
			o := Options{MaxMessageBytes: limit, TooLarge: func(m *jupyter.Message, n int64) { cut, size = append(cut, m), n }}
			c, got, err := attack(t, o, func(conn net.Conn) {
				conn.Write(signed(testKey, m))
				conn.Write(signed(testKey, stream("after")))
			})
			if !errors.Is(err, io.EOF) || len(got) != 1 || c.Stats().TooLarge != 1 {
				t.Fatalf("%d messages after it, want 1; stats %+v; %v", len(got), c.Stats(), err)
			}
			if tc.header == "none" {
				if len(cut) != 0 {
					t.Errorf("a message without a header was reported: %q", cut[0].Header)
				}
				return
			}
			if len(cut) != 1 {
				t.Fatalf("reported %d times", len(cut))
			}
			if string(cut[0].Header) != string(m.Header) || string(cut[0].ParentHeader) != string(m.ParentHeader) {
				t.Errorf("reported header %q, parent %q", cut[0].Header, cut[0].ParentHeader)
			}
			if size < int64(m.Size()) || size > int64(m.Size())+1000 {
				t.Errorf("reported size %d, the message has %d", size, m.Size())
			}
		})
	}
}

func fill(c byte, n int) []byte { return bytes.Repeat([]byte{c}, n) }

func TestMessageAtTheLimitPasses(t *testing.T) {
	const limit = 1 << 20
	m := stream("")
	m.Buffers = [][]byte{fill('b', limit-m.Size())}
	c, got, _ := attack(t, Options{MaxMessageBytes: limit}, func(conn net.Conn) { conn.Write(signed(testKey, m)) })
	if len(got) != 1 || c.Stats().TooLarge != 0 {
		t.Errorf("%d messages, stats %+v", len(got), c.Stats())
	}
}

func TestKernelPingsAreAnswered(t *testing.T) {
	pong := make([]byte, 2+5+4)
	_, got, _ := attack(t, Options{}, func(conn net.Conn) {
		// Our greeting, READY and subscription come first.
		skipHandshake(t, conn)
		conn.Write(command("PING", append([]byte{0, 100}, "ctx!"...)))
		conn.Write(signed(testKey, stream("after")))
		if _, err := io.ReadFull(conn, pong); err != nil {
			t.Errorf("no PONG: %v", err)
		}
	})
	if want := command("PONG", []byte("ctx!")); !bytes.Equal(pong, want) {
		t.Errorf("answered %q, want %q", pong, want)
	}
	if len(got) != 1 {
		t.Errorf("%d messages, want the one after the ping only", len(got))
	}
}

// skipHandshake reads what a SUB sends at first.
func skipHandshake(t *testing.T, conn net.Conn) {
	t.Helper()
	head := make([]byte, 64+2)
	if _, err := io.ReadFull(conn, head); err != nil {
		t.Fatal(err)
	}
	rest := make([]byte, int(head[65])+3)
	if _, err := io.ReadFull(conn, rest); err != nil {
		t.Fatal(err)
	}
	if string(rest[len(rest)-3:]) != "\x00\x01\x01" {
		t.Errorf("subscription %q", rest[len(rest)-3:])
	}
}

func TestKernelSendsOtherCommands(t *testing.T) {
	for _, tc := range []struct {
		name string
		sent []byte
		ends bool
	}{
		{"SUBSCRIBE", command("SUBSCRIBE", []byte("x")), false},
		{"ping without time to live", command("PING", nil), false},
		{"ping with a long context", command("PING", fill('x', 100)), false},
		{"between the frames of a message", append([]byte{flagMore, 1, 't'}, command("PING", []byte{0, 0})...), false},
		{"command of 1 MiB", binary.BigEndian.AppendUint64([]byte{flagCommand | flagLong}, 1<<20), true},
		{"truncated command", []byte{flagCommand, 3, 200, 'a', 'b'}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, got, err := attack(t, Options{}, func(conn net.Conn) {
				conn.Write(tc.sent)
				conn.Write(signed(testKey, stream("after")))
			})
			if tc.ends {
				if !errors.Is(err, ErrProtocol) || len(got) != 0 {
					t.Errorf("%d messages, %v; want ErrProtocol", len(got), err)
				}
			} else if len(got) != 1 {
				t.Errorf("%d messages, want 1; %v", len(got), err)
			}
		})
	}
}

func TestKernelPingsWithoutReading(t *testing.T) {
	assertMemory(t, 64<<20, func() {
		_, _, err := attack(t, Options{BacklogBytes: 1 << 10}, func(conn net.Conn) {
			pings := bytes.Repeat(command("PING", append([]byte{0, 0}, "0123456789abcdef"...)), 10000)
			for range 20 {
				if _, err := conn.Write(pings); err != nil {
					return
				}
			}
		})
		if err == nil {
			t.Error("Run ended without a reason")
		}
	})
}

func TestKernelNeverReads(t *testing.T) {
	h := newHostile(t, jupyter.Shell)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() {
		conn := <-h.conns
		conn.Write(greeting())
		conn.Write(ready("ROUTER"))
	}()
	c, err := Dial(ctx, h.info, Options{BacklogBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx, func(*jupyter.Message) {}) }()
	m := &jupyter.Message{
		Channel: jupyter.Shell, Header: []byte("{}"), ParentHeader: []byte("{}"), Metadata: []byte("{}"), Content: fill('x', 256<<10),
	}
	sent := 0
	for ; sent < 1000; sent++ {
		if err = c.Send(m); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrBacklog) || !strings.Contains(err.Error(), "shell") {
		t.Errorf("after %d messages of 256 KiB: %v, want ErrBacklog that names shell", sent, err)
	}
	// The other channels are not held up.
	m.Channel = jupyter.Control
	if err := c.Send(m); err != nil {
		t.Errorf("control: %v", err)
	}
	c.Close()
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("Run ended with %v, want ErrClosed", err)
	}
	if err := c.Send(m); !errors.Is(err, ErrClosed) {
		t.Errorf("Send after Close: %v, want ErrClosed", err)
	}
}
