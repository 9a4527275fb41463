package splice

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// Opcodes and limits of RFC 6455, sections 5.2 and 5.5.
const (
	opContinuation = 0
	opClose        = 8
	opPing         = 9
	opPong         = 10

	finBit  = 0x80
	maskBit = 0x80

	maxControl = 125
	// maxHeld is the longest piece of a stream that is held back until it is
	// whole: a masked close frame.
	maxHeld = 2 + 4 + maxControl
)

// Close codes that splice itself sends or reports (RFC 6455, section 7.4.1).
const (
	codeProtocolError = 1002
	codeNoStatus      = 1005
	codeAbnormal      = 1006
	codeTooBig        = 1009
	codeInternal      = 1011
)

// Violation is a frame that RFC 6455 or the size cap forbids.
type Violation struct {
	From    Party  // who sent it
	Code    int    // the close code it calls for: 1002 or 1009
	Problem string // what is wrong with it, fit for the close frame's reason
}

// Error names the sender and the problem.
func (v *Violation) Error() string {
	return fmt.Sprintf("%s sent a bad WebSocket frame: %s", v.From, v.Problem)
}

// follower walks over the frame headers of one direction.
type follower struct {
	from  Party // Client frames must be masked, Agent frames must not
	limit int64 // of a message
	slack int64 // by which it may be exceeded

	limitName string // of the setting, "" when it is told to nobody

	remain int64 // payload bytes of the current frame still to come
	size   int64 // of the current message, so far
	final  bool  // the current frame is the last of its message, or a control frame
	data   bool  // the current frame is a data frame
	open   bool  // inside a message, between or in its fragments
	ping   bool  // the current frame is a ping

	unasked bool // data has passed since the last ping

	closed    bool // a close frame has passed
	closeCode int

	messages int64 // whole data messages that passed
}

// progress is what follow made of a chunk.
type progress struct {
	forward  int // so many bytes may be sent on: they end in a payload or at a boundary
	boundary int // the last offset at or before forward that is between two messages, -1 if none

	// asked is the last such offset right behind a ping, -1 if none, and messages
	// is follower.messages there.
	asked    int
	messages int64
}

// follow advances over b. Bytes from forward on are the start of a header (or
// of a close frame) that is not whole; the caller gives them again, with what
// follows them. After a violation forward ends before the frame that is wrong,
// so what has been sent on is at a frame boundary. After a close frame nothing
// is to be sent on any more.
func (f *follower) follow(b []byte) (p progress, v *Violation) {
	p.boundary, p.asked = -1, -1
	i := 0
	for !f.closed && i < len(b) {
		if f.remain == 0 {
			var n int
			if n, v = f.header(b[i:]); n == 0 || v != nil {
				break
			}
			i += n
		}
		n := min(f.remain, int64(len(b)-i))
		i += int(n)
		f.remain -= n
		if f.remain > 0 {
			break
		}
		if f.data && f.final {
			f.open = false
			f.messages++
		}
		if f.data {
			f.unasked = true
		}
		if !f.open {
			p.boundary = i
			if f.ping {
				f.unasked = false
				p.asked, p.messages = i, f.messages
			}
		}
	}
	p.forward = i
	return p, v
}

// between reports whether the stream is between two frames.
func (f *follower) between() bool { return f.remain == 0 }

// idle reports whether the stream is between two messages.
func (f *follower) idle() bool { return f.remain == 0 && !f.open }

// header takes one frame header from the front of b and returns its length, 0
// when it is not whole yet.
func (f *follower) header(b []byte) (int, *Violation) {
	bad := func(code int, format string, args ...any) (int, *Violation) {
		return 0, &Violation{From: f.from, Code: code, Problem: fmt.Sprintf(format, args...)}
	}
	if b[0]&0x70 != 0 {
		return bad(codeProtocolError, "reserved bits are set and no extension was negotiated")
	}
	final, op := b[0]&finBit != 0, b[0]&0x0f
	control := op >= opClose
	switch {
	case op > byte(Binary) && op < opClose, op > opPong:
		return bad(codeProtocolError, "opcode %d is not defined", op)
	case control && !final:
		return bad(codeProtocolError, "a control frame is fragmented")
	case op == opContinuation && !f.open:
		return bad(codeProtocolError, "a continuation without a message to continue")
	case !control && op != opContinuation && f.open:
		return bad(codeProtocolError, "a new message inside a fragmented one")
	}
	if len(b) < 2 {
		return 0, nil
	}
	masked, length, n := b[1]&maskBit != 0, int64(b[1]&0x7f), 2
	switch {
	case masked && f.from == Agent:
		return bad(codeProtocolError, "a server frame is masked")
	case !masked && f.from == Client:
		return bad(codeProtocolError, "a client frame is not masked")
	case control && length > maxControl:
		return bad(codeProtocolError, "a control frame is longer than 125 bytes")
	case op == opClose && length == 1:
		return bad(codeProtocolError, "a close frame holds half a code")
	}
	switch length {
	case 126:
		if n += 2; len(b) < n {
			return 0, nil
		}
		length = int64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		if n += 8; len(b) < n {
			return 0, nil
		}
		// A length with the top bit set is forbidden; as a negative number it
		// is caught with those over the limit.
		length = int64(binary.BigEndian.Uint64(b[2:]))
	}
	mask := n
	if masked {
		n += 4
	}
	if !control {
		size := f.size
		if op == opContinuation {
			size += int64(n)
		} else {
			size = 0
		}
		if length < 0 || length > f.limit+f.slack-size {
			return bad(codeTooBig, "a message is longer than the limit of %s%s", bytesText(f.limit), f.setting())
		}
		if len(b) < n {
			return 0, nil
		}
		f.size = size + length
		f.open = true
	}
	if len(b) < n {
		return 0, nil
	}
	if op == opClose {
		if len(b) < n+int(length) {
			return 0, nil
		}
		f.closed, f.closeCode = true, codeNoStatus
		if length >= 2 {
			code := [2]byte{b[n], b[n+1]}
			if masked {
				code[0] ^= b[mask]
				code[1] ^= b[mask+1]
			}
			f.closeCode = int(binary.BigEndian.Uint16(code[:]))
		}
	}
	f.remain, f.final, f.data, f.ping = length, final, !control, op == opPing
	return n, nil
}

// setting names what the limit can be changed by.
func (f *follower) setting() string {
	if f.limitName == "" {
		return ""
	}
	return " (" + f.limitName + ")"
}

// appendFrame appends one unmasked, final frame to b.
func appendFrame(b []byte, op byte, payload []byte) []byte {
	b = append(b, finBit|op)
	switch n := len(payload); {
	case n <= maxControl:
		b = append(b, byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return append(b, payload...)
}

// appendClose appends a close frame. A reason that is too long is cut at a
// rune, because receivers must fail on invalid UTF-8.
func appendClose(b []byte, code int, reason string) []byte {
	const room = maxControl - 2
	if len(reason) > room {
		cut := room
		for !utf8.RuneStart(reason[cut]) {
			cut--
		}
		reason = reason[:cut]
	}
	payload := append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...)
	return appendFrame(b, opClose, payload)
}

// bytesText writes n in the unit that people set limits in.
func bytesText(n int64) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}
