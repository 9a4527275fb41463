package zmq

import (
	"io"
)

// receive reads the next message and appends its frames to frames. They own their
// memory: one piece for all where the message had arrived when it was asked for,
// as small ones that come in numbers have, else one for each frame. Of a message
// over the limit the frames within it come, and an empty last one in the place of
// the rest (takeSkipped).
//
// zmq4's own way (Conn.RecvMsg) allocates for each frame, and for the slices that
// hold them, twelve times for a message, which was a fifth of all that an agent
// spends on it.
func (g *guard) receive(frames [][]byte) ([][]byte, error) {
	if _, err := g.peek(2); err != nil { // waits, and fills the buffer
		return frames, err
	}
	if all, ok := g.arrived(frames); ok {
		return all, nil
	}
	begun := len(frames)
	for {
		f, err := g.header()
		if err == nil && f.command {
			if err = g.command(f); err == nil {
				continue
			}
		}
		if err != nil {
			if len(frames) > begun { // in the middle of a message
				err = unexpected(err)
			}
			return frames, err
		}
		pass, err := g.account(f)
		if err != nil {
			return frames, err
		}
		if !pass {
			return append(frames, nil), g.skip(f)
		}
		if err := g.discard(f.head); err != nil {
			return frames, err
		}
		body := make([]byte, f.body)
		if _, err := io.ReadFull(g.r, body); err != nil {
			return frames, unexpected(err)
		}
		frames = append(frames, body)
		if !f.more {
			return frames, nil
		}
	}
}

// arrived takes a message that is in the buffer as a whole, without a command
// between its frames, and within the limit. It takes nothing else.
func (g *guard) arrived(frames [][]byte) ([][]byte, bool) {
	b, _ := g.r.Peek(g.r.Buffered()) // cannot fail
	end, bytes, count := 0, uint64(0), uint64(0)
	for more := true; more; {
		f, err := readHeader(b[end:])
		if err != nil || f.command || f.head == 0 || f.body > uint64(len(b)-end)-f.head {
			return frames, false
		}
		end += int(f.head + f.body)
		bytes += f.body
		count++
		more = f.more
	}
	if !g.within(bytes, count) {
		return frames, false
	}
	memory := make([]byte, 0, bytes)
	for at := 0; at < end; {
		f, _ := readHeader(b[at:]) // as before
		body := b[at+int(f.head) : at+int(f.head+f.body)]
		start := len(memory)
		memory = append(memory, body...)
		frames = append(frames, memory[start:len(memory):len(memory)])
		at += int(f.head + f.body)
	}
	_, _ = g.r.Discard(end) // it is there
	return frames, true
}
