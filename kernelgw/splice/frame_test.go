package splice

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
)

// frame is one frame as a peer would put it on the wire.
func frame(from Party, first byte, payload []byte) []byte {
	b := claim(from, first, uint64(len(payload)))
	if from == Agent {
		return append(b, payload...)
	}
	mask := b[len(b)-4:]
	for i, c := range payload {
		b = append(b, c^mask[i%4])
	}
	return b
}

// claim is the header of a frame with the length that it claims to have.
func claim(from Party, first byte, length uint64) []byte {
	b := []byte{first, 0}
	switch {
	case length <= maxControl:
		b[1] = byte(length)
	case length <= 0xffff:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(length))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, length)
	}
	if from == Client {
		b[1] |= maskBit
		b = append(b, 0x11, 0x22, 0x33, 0x44)
	}
	return b
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// Bad frames, each behind a good one. Both directions refuse them before a
// byte of the bad frame has been passed on.
func TestFollowRefuses(t *testing.T) {
	const limit = 1000
	for name, tc := range map[string]struct {
		from Party
		bad  []byte
		code int
		says string
	}{
		"RSV1":                               {Client, frame(Client, 0xc1, []byte("x")), 1002, "reserved bits"},
		"RSV2":                               {Agent, frame(Agent, 0xa1, []byte("x")), 1002, "reserved bits"},
		"RSV3":                               {Client, frame(Client, 0x99, nil), 1002, "reserved bits"},
		"undefined data opcode":              {Client, frame(Client, 0x83, nil), 1002, "opcode 3"},
		"undefined control opcode":           {Agent, frame(Agent, 0x8b, nil), 1002, "opcode 11"},
		"unmasked client frame":              {Client, frame(Agent, 0x81, []byte("x")), 1002, "not masked"},
		"unmasked client ping":               {Client, frame(Agent, 0x89, nil), 1002, "not masked"},
		"masked server frame":                {Agent, frame(Client, 0x81, []byte("x")), 1002, "masked"},
		"control frame over 125 bytes":       {Agent, frame(Agent, 0x89, make([]byte, 126)), 1002, "125"},
		"control frame that claims 2^63":     {Client, claim(Client, 0x89, 1<<63), 1002, "125"},
		"fragmented ping":                    {Client, frame(Client, 0x09, nil), 1002, "control frame is fragmented"},
		"close frame of one byte":            {Client, frame(Client, 0x88, []byte{3}), 1002, "half a code"},
		"continuation of nothing":            {Client, frame(Client, 0x80, nil), 1002, "continuation"},
		"message inside a message":           {Agent, join(frame(Agent, 0x01, []byte("a")), frame(Agent, 0x81, nil)), 1002, "inside"},
		"message of 2^63 bytes":              {Client, claim(Client, 0x82, 1<<63), 1009, "1000 bytes"},
		"message of 2^64-1 bytes":            {Agent, claim(Agent, 0x82, 1<<64-1), 1009, "1000 bytes"},
		"message of 2^63-1 bytes":            {Agent, claim(Agent, 0x82, 1<<63-1), 1009, "1000 bytes"},
		"message one byte over the limit":    {Agent, frame(Agent, 0x82, make([]byte, limit+1)), 1009, "1000 bytes"},
		"fragmented bomb":                    {Client, join(frame(Client, 0x02, make([]byte, 600)), frame(Client, 0x00, make([]byte, 600))), 1009, "1000 bytes"},
		"fragments that overflow the sum":    {Agent, join(frame(Agent, 0x02, make([]byte, 600)), claim(Agent, 0x00, 1<<63-1)), 1009, "1000 bytes"},
		"bomb of a thousand empty fragments": {Client, join(frame(Client, 0x02, nil), bytes.Repeat(frame(Client, 0x00, nil), 1000)), 1009, "1000 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			good := frame(tc.from, 0x81, []byte("good"))
			whole := follower{from: tc.from, limit: limit}
			at, v := whole.follow(join(good, tc.bad))
			if v == nil {
				t.Fatal("accepted")
			}
			if v.Code != tc.code || !strings.Contains(v.Problem, tc.says) || v.From != tc.from {
				t.Errorf("got %+v, want code %d and %q", v, tc.code, tc.says)
			}
			if at.boundary != len(good) {
				t.Errorf("boundary %d, want %d", at.boundary, len(good))
			}
			if !whole.between() || whole.messages != 1 {
				t.Errorf("after the violation: between frames %v, messages %d", whole.between(), whole.messages)
			}
			// The same, byte by byte.
			_, sent, v2 := followChunks(&follower{from: tc.from, limit: limit}, join(good, tc.bad), func(int) int { return 1 })
			if v2 == nil || v2.Problem != v.Problem || len(sent) != at.forward {
				t.Errorf("byte by byte: %v after %d bytes, want %v after %d", v2, len(sent), v, at.forward)
			}
		})
	}
}

// followChunks gives stream to f in pieces, holding back as source does.
func followChunks(f *follower, stream []byte, size func(left int) int) (boundaries []int, sent []byte, v *Violation) {
	var held []byte
	for len(stream) > 0 {
		n := min(size(len(stream)), len(stream))
		chunk := append(bytes.Clone(held), stream[:n]...)
		stream = stream[n:]
		at, bad := f.follow(chunk)
		if at.boundary >= 0 {
			boundaries = append(boundaries, len(sent)+at.boundary)
		}
		sent = append(sent, chunk[:at.forward]...)
		held = chunk[at.forward:]
		if bad != nil || f.closed {
			return boundaries, sent, bad
		}
	}
	return boundaries, sent, nil
}

func TestFollowKeepsTheLimitToTheByte(t *testing.T) {
	f := follower{from: Agent, limit: 1000}
	stream := join(frame(Agent, 0x82, make([]byte, 1000)), frame(Agent, 0x02, make([]byte, 500)), frame(Agent, 0x89, make([]byte, 125)),
		frame(Agent, 0x80, make([]byte, 496)), frame(Agent, 0x82, make([]byte, 1000)))
	if _, v := f.follow(stream); v != nil {
		t.Fatal(v)
	}
	if f.messages != 3 || !f.idle() {
		t.Errorf("messages %d, idle %v", f.messages, f.idle())
	}
}

func TestFollowHoldsACloseFrameUntilItIsWhole(t *testing.T) {
	for _, from := range []Party{Agent, Client} {
		f := follower{from: from, limit: 1000}
		whole := frame(from, 0x88, append([]byte{0x03, 0xf4}, strings.Repeat("x", 123)...))
		for n := 1; n < len(whole); n++ {
			if at, v := f.follow(whole[:n]); v != nil || at.forward != 0 || f.closed {
				t.Fatalf("%s, %d bytes: forward %d, closed %v, %v", from, n, at.forward, f.closed, v)
			}
		}
		at, v := f.follow(append(whole, "and what comes behind it"...))
		if v != nil || at.forward != len(whole) || !f.closed || f.closeCode != 1012 {
			t.Errorf("%s: forward %d, closed %v with %d, %v", from, at.forward, f.closed, f.closeCode, v)
		}
	}
}

func TestCloseReasonIsCutAtARune(t *testing.T) {
	b := appendClose(nil, 1012, strings.Repeat("é", 100))
	if len(b) > 2+maxControl || int(b[1]) != len(b)-2 {
		t.Fatalf("%d bytes, length %d", len(b), b[1])
	}
	if !utf8.Valid(b[4:]) {
		t.Errorf("reason %q", b[4:])
	}
}

func FuzzFollow(f *testing.F) {
	f.Add(join(frame(Agent, 0x81, []byte("hello")), frame(Agent, 0x89, []byte("7")), frame(Agent, 0x02, make([]byte, 200)), frame(Agent, 0x80, make([]byte, 70000))), false, uint64(1))
	f.Add(join(frame(Client, 0x81, []byte("hello")), frame(Client, 0x8a, nil), frame(Client, 0x88, []byte{3, 0xe8})), true, uint64(2))
	f.Add(claim(Client, 0x82, 1<<63), true, uint64(3))
	f.Add(join(frame(Agent, 0x02, nil), frame(Agent, 0x00, nil), frame(Agent, 0x00, []byte("x"))), false, uint64(4))
	f.Add([]byte{0x81, 0x7f, 0, 0, 0}, false, uint64(5))
	f.Fuzz(func(t *testing.T, stream []byte, client bool, seed uint64) {
		from := Agent
		if client {
			from = Client
		}
		const limit = 1 << 16
		whole := follower{from: from, limit: limit}
		_, wantSent, wantBad := followChunks(&whole, stream, func(left int) int { return left })

		rng := rand.New(rand.NewPCG(seed, 0))
		pieces := follower{from: from, limit: limit}
		boundaries, sent, bad := followChunks(&pieces, stream, func(int) int { return 1 + rng.IntN(20) })
		if !bytes.Equal(sent, wantSent) || (bad == nil) != (wantBad == nil) {
			t.Fatalf("in pieces %d bytes and %v, whole %d bytes and %v", len(sent), bad, len(wantSent), wantBad)
		}
		if bad != nil && (*bad != *wantBad || !pieces.between()) {
			t.Fatalf("in pieces %v, whole %v; between %v", bad, wantBad, pieces.between())
		}
		if !bytes.HasPrefix(stream, sent) {
			t.Fatal("what is passed on is not what came")
		}
		if rest := len(stream) - len(sent); bad == nil && !pieces.closed && rest >= maxHeld {
			t.Fatalf("%d bytes held back", rest)
		}
		if pieces.size > limit {
			t.Fatalf("a message of %d bytes passed", pieces.size)
		}
		// Whatever is a boundary is one for a reader that starts there too.
		for _, at := range boundaries {
			tail := follower{from: from, limit: limit}
			_, tailSent, _ := followChunks(&tail, sent[at:], func(left int) int { return left })
			if len(tailSent) != len(sent)-at {
				t.Fatalf("read from boundary %d: %d bytes, want %d", at, len(tailSent), len(sent)-at)
			}
		}
	})
}

func TestAgentsMessagesMayBeLongerByTheirEnvelope(t *testing.T) {
	const limit, envelope = 1 << 20, 1 << 10
	s := newSplice(nil, nil, nil, nil, Options{MaxMessageBytes: limit, Envelope: envelope, LimitName: "max_message"})
	for _, tc := range []struct {
		from   Party
		length uint64
		fits   bool
	}{
		{Agent, limit + envelope, true},
		{Agent, limit + envelope + 1, false},
		{Client, limit, true},
		{Client, limit + 1, false},
	} {
		f := s.up.follow
		if tc.from == Agent {
			f = s.down.follow
		}
		_, v := f.follow(claim(tc.from, 0x82, tc.length))
		if fits := v == nil; fits != tc.fits {
			t.Errorf("%s, %d bytes: %v", tc.from, tc.length, v)
		}
		if v != nil && v.Problem != "a message is longer than the limit of 1 MiB (max_message)" {
			t.Errorf("%s, %d bytes: %q", tc.from, tc.length, v.Problem)
		}
	}
}
