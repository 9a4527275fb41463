package eventlog

import (
	"strconv"
	"strings"
)

// Audience says whose entries a follower wants.
type Audience uint8

// The audiences.
const (
	Everything Audience = iota // all entries
	Public                     // those for every reader
	Addressed                  // those for one reader, whichever
)

// Position is the place of a follower: the number of the last entry that it has
// passed, and what had been appended up to there, from which follows what it
// lost. It is the same for each audience, can be written as text, and holds for
// as long as the log: whoever kept it may come back with it. A made-up one does
// no harm but to what its owner is told of losses.
type Position struct {
	Seq               uint64
	public, addressed total // of the entries up to Seq
}

// Offset is Cursor.Offset of a reader at the same place.
func (p *Position) Offset() uint64 { return p.public.bytes + p.public.messages*Overhead }

// Step is what a follower gets next: a loss, if Lost.Messages is not zero, else
// an entry.
type Step[T any] struct {
	Lost  Lost
	Entry Entry[T]
	At    Position // behind it: who continues there gets all that follows, once
}

// End returns the position behind all that has been appended.
func (l *Log[T]) End() Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end()
}

// end needs the lock.
func (l *Log[T]) end() Position { return position(l.last, l.all, l.bytes) }

// position is the one behind so many entries, of which public ones are for every
// reader.
func position(seq uint64, public total, bytes uint64) Position {
	return Position{seq, public, total{seq - public.messages, bytes - public.bytes}}
}

// At returns the position behind the entry with a number, and whether there ever
// was such an entry; 0 is the start. When the entry itself is lost, a follower
// that begins there may be told of more bytes than it lost, and when it wants
// not Everything, of more messages: from the last entry before that is kept.
func (l *Log[T]) At(seq uint64) (Position, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case seq > l.last:
		return Position{}, false
	case seq == l.last:
		return l.end(), true
	}
	at := Position{}
	for i := l.after(seq) - 1; i >= l.head; i-- {
		if s := &l.slots[i]; s.live {
			at = s.behind()
			break
		}
	}
	at.Seq = seq
	return at, true
}

// before is the position before the slot's entry.
func (s *slot[T]) before() Position { return position(s.Seq-1, s.all, s.bytes) }

// behind is the position behind the slot's entry.
func (s *slot[T]) behind() Position {
	public := s.all
	if s.To == "" {
		public = public.plus(s.Entry.Bytes)
	}
	return position(s.Seq, public, s.bytes+uint64(s.Entry.Bytes))
}

// Follow appends to steps the next ones of a follower, moves its position behind
// them, and returns the longer slice. It stops at the end of the log, after
// maxSteps, or when the entries of this call cost maxCost or more. Nothing
// appended means that the follower has everything.
func (l *Log[T]) Follow(p *Position, a Audience, maxSteps, maxCost int, steps []Step[T]) []Step[T] {
	l.mu.Lock()
	defer l.mu.Unlock()
	cost, most := 0, len(steps)+maxSteps
	for i := l.after(p.Seq); i < len(l.slots); i++ {
		s := &l.slots[i]
		if !s.live {
			continue
		}
		if cost >= maxCost || len(steps) >= most {
			return steps
		}
		from, lost := p.Seq, a.between(*p, s.before())
		*p = s.before()
		if lost.messages > 0 {
			steps = append(steps, Step[T]{Lost: Lost{lost.messages, lost.bytes, l.parentOf(from, s.Seq)}, At: *p})
			if len(steps) >= most {
				return steps
			}
		}
		*p = s.behind()
		if a == Everything || (a == Public) == (s.To == "") {
			steps = append(steps, Step[T]{Entry: s.Entry, At: *p})
			cost += s.Cost + Overhead
		}
	}
	return steps
}

// between counts what was appended for an audience between two positions.
func (a Audience) between(from, to Position) total {
	public, addressed := difference(to.public, from.public), difference(to.addressed, from.addressed)
	switch a {
	case Public:
		return public
	case Addressed:
		return addressed
	}
	return total{to.Seq - from.Seq, public.bytes + addressed.bytes}
}

// AppendText appends the position as text, of letters, digits and hyphens.
func (p Position) AppendText(b []byte) []byte {
	b = strconv.AppendUint(b, p.Seq, 36)
	for _, n := range [...]uint64{p.public.messages, p.public.bytes, p.addressed.messages, p.addressed.bytes} {
		b = strconv.AppendUint(append(b, '-'), n, 36)
	}
	return b
}

// ParsePosition reads what AppendText wrote.
func ParsePosition(text string) (Position, bool) {
	var p Position
	fields := [...]*uint64{&p.Seq, &p.public.messages, &p.public.bytes, &p.addressed.messages, &p.addressed.bytes}
	for i, field := range fields {
		number, rest, more := strings.Cut(text, "-")
		n, err := strconv.ParseUint(number, 36, 64)
		if err != nil || more != (i < len(fields)-1) {
			return Position{}, false
		}
		*field, text = n, rest
	}
	return p, true
}
