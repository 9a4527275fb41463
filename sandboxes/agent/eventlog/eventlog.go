// Package eventlog keeps the newest messages of one kernel within a budget of
// bytes, numbered, for readers that come and go. It knows nothing of Jupyter's
// formats: what a message is, and what a reader is told of those that it can no
// longer have, is the caller's.
//
// When the budget is exceeded messages leave in the order of their class:
// first the oldest of Stream, then the oldest of Display, then the oldest
// of Kept. A reader that still wanted one learns how many and how large, at the
// place where they were. Append costs amortised constant time whatever leaves.
//
// There are two kinds of readers. One that has a name reads with a Cursor what is
// for it and what is for every reader (Read). One without follows with a
// Position what is for whomever (Follow, in follow.go).
package eventlog

import (
	"bytes"
	"sort"
	"sync"
)

// Class says how early a message may leave.
type Class uint8

// The classes, in the order in which messages leave.
const (
	Stream Class = iota
	Display
	Kept
	classes
)

// Overhead is what an entry costs of the budget beside its own bytes.
const Overhead = 256

// Entry is one message as the log keeps it. What it holds must not be changed
// after Append: readers share it.
type Entry[T any] struct {
	Seq   uint64 // given by Append: 1, 2, 3, ...
	To    string // the only reader that gets it; "" means every reader
	Class Class
	// Quiet entries show nothing where output is shown. What was lost before
	// them may be reported after them, so that one report covers more.
	Quiet  bool
	Parent []byte // what the loss of this entry is reported under
	Bytes  int    // as a reader counts them
	Cost   int    // of the budget; Overhead is added
	Value  T
}

// Lost says what a reader can no longer have.
type Lost struct {
	Messages uint64
	Bytes    uint64
	Parent   []byte // Parent of the first of them, nil when that was forgotten too
}

// Item is a step of a reader: first the loss, if Lost.Messages is not zero,
// then the entry, unless Entry.Seq is zero.
type Item[T any] struct {
	Lost  Lost
	Entry Entry[T]
}

// Cursor is the place of a reader in a log. A copy of a Cursor is the same
// place: a reader may return to it.
type Cursor struct {
	seq      uint64 // all up to here was read, skipped or found lost
	all, own total
	pending  Lost // found, not reported yet
}

// Seq is the number of the last entry that the cursor has passed.
func (c *Cursor) Seq() uint64 { return c.seq }

// Offset is how much was appended for every reader up to the cursor, each entry
// counted as Bytes and Overhead. The difference of two is what lies between.
func (c *Cursor) Offset() uint64 { return c.all.bytes + c.all.messages*Overhead }

// total counts what was appended for an audience since the start.
type total struct{ messages, bytes uint64 }

func (t total) plus(bytes int) total { return total{t.messages + 1, t.bytes + uint64(bytes)} }

// slot is an entry and what had been appended before it. A spilled entry
// leaves a hole until the next compaction.
type slot[T any] struct {
	Entry[T]
	live     bool
	all, own total
	bytes    uint64 // of all entries, whoever they are for
}

// Log is safe for concurrent use. Make one with New.
type Log[T any] struct {
	budget int64 // set at construction

	mu    sync.Mutex
	slots []slot[T] // ascending by Seq
	head  int       // slots before it are gone
	holes int       // at or after head
	scan  [classes]int
	runs  [classes][]run
	used  int64
	last  uint64
	all   total
	own   map[string]total
	bytes uint64 // of all entries that were ever appended
}

// run is a range of lost entries of one class with one parent.
type run struct {
	first, last uint64
	parent      []byte
}

// Bounds on what is remembered of the parents of lost entries.
const (
	maxRuns      = 256
	maxRunParent = 2048
)

// New returns an empty log that holds at most budget bytes, or one entry when
// that alone costs more.
func New[T any](budget int64) *Log[T] {
	return &Log[T]{budget: budget, own: make(map[string]total)}
}

// Append gives e the next number, keeps it, and lets go what no longer fits.
// The newest entry always stays.
func (l *Log[T]) Append(e Entry[T]) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	e.Seq = l.last
	l.slots = append(l.slots, slot[T]{Entry: e, live: true, all: l.all, own: l.own[e.To], bytes: l.bytes})
	l.used += int64(e.Cost + Overhead)
	l.bytes += uint64(e.Bytes)
	if e.To == "" {
		l.all = l.all.plus(e.Bytes)
	} else {
		l.own[e.To] = l.own[e.To].plus(e.Bytes)
	}
	for l.used > l.budget && l.spill() {
	}
	if l.holes > 64 && l.holes > (len(l.slots)-l.head)/2 || l.head > 64 && l.head > len(l.slots)/2 {
		l.compact()
	}
	return e.Seq
}

// spill lets one entry go, never the newest, and reports whether there was one.
func (l *Log[T]) spill() bool {
	newest := len(l.slots) - 1
	for class := range classes {
		// What scan has passed is a hole or of another class, and stays so:
		// each slot is looked at once for each class.
		for i := max(l.scan[class], l.head); i < newest; i++ {
			if s := &l.slots[i]; s.live && s.Class == class {
				l.scan[class] = i + 1
				l.drop(i)
				return true
			}
			l.scan[class] = i + 1
		}
	}
	return false
}

func (l *Log[T]) drop(i int) {
	s := &l.slots[i]
	l.remember(s.Class, s.Seq, s.Parent)
	l.used -= int64(s.Cost + Overhead)
	// The place is kept for compaction; what it held is not.
	*s = slot[T]{Entry: Entry[T]{Seq: s.Seq}}
	l.holes++
	for l.head < len(l.slots) && !l.slots[l.head].live {
		l.head++
		l.holes--
	}
}

func (l *Log[T]) remember(class Class, seq uint64, parent []byte) {
	if len(parent) > maxRunParent {
		parent = nil
	}
	runs := l.runs[class]
	if n := len(runs); n > 0 && bytes.Equal(runs[n-1].parent, parent) {
		runs[n-1].last = seq
		return
	}
	if len(runs) == maxRuns {
		runs = append(runs[:0], runs[maxRuns/2:]...)
	}
	// Copy: parent is part of a whole message that is to be freed.
	l.runs[class] = append(runs, run{first: seq, last: seq, parent: bytes.Clone(parent)})
}

// compact removes the holes. It runs after as many drops as it moves entries.
func (l *Log[T]) compact() {
	kept := l.slots[:0]
	var scan [classes]int
	for i := l.head; i < len(l.slots); i++ {
		if !l.slots[i].live {
			continue
		}
		for class := range classes {
			if i < l.scan[class] {
				scan[class] = len(kept) + 1
			}
		}
		kept = append(kept, l.slots[i])
	}
	clear(l.slots[len(kept):])
	l.slots, l.head, l.holes, l.scan = kept, 0, 0, scan
	if cap(l.slots) > 1024 && len(l.slots) < cap(l.slots)/4 {
		l.slots = append(make([]slot[T], 0, 2*len(l.slots)), l.slots...)
	}
}

// Now returns the cursor of a reader named to that wants nothing of what has
// been appended so far.
func (l *Log[T]) Now(to string) Cursor {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Cursor{seq: l.last, all: l.all, own: l.own[to]}
}

// Forget lets go what is kept about the reader named to. Its cursors must not
// be used any more.
func (l *Log[T]) Forget(to string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.own, to)
}

// Read appends to items the next steps of the reader named to, moves its
// cursor behind them, and returns the longer slice. It stops at the end of the
// log, after maxItems, or when the entries of this call cost maxCost or more.
// Nothing appended means that the reader has everything.
func (l *Log[T]) Read(c *Cursor, to string, maxItems, maxCost int, items []Item[T]) []Item[T] {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.seq == l.last && c.pending.Messages == 0 {
		return items
	}
	cost, most := 0, len(items)+maxItems
	for i := l.after(c.seq); i < len(l.slots); i++ {
		s := &l.slots[i]
		if !s.live {
			continue
		}
		if cost >= maxCost || len(items) >= most {
			return items
		}
		mine := s.To == "" || s.To == to
		var lost total
		lost, c.all = difference(s.all, c.all), s.all
		if mine && s.To != "" {
			lost, c.own = sum(lost, difference(s.own, c.own)), s.own
		}
		l.lose(c, lost, s.Seq)
		c.seq = s.Seq
		if !mine {
			continue
		}
		item := Item[T]{Entry: s.Entry}
		if c.pending.Messages > 0 && !(s.Quiet && bytes.Equal(s.Parent, c.pending.Parent)) {
			item.Lost, c.pending = c.pending, Lost{}
		}
		if s.To == "" {
			c.all = c.all.plus(s.Bytes)
		} else {
			c.own = c.own.plus(s.Bytes)
		}
		items = append(items, item)
		cost += s.Cost + Overhead
	}
	lost := sum(difference(l.all, c.all), difference(l.own[to], c.own))
	l.lose(c, lost, l.last+1)
	c.seq, c.all, c.own = l.last, l.all, l.own[to]
	if c.pending.Messages > 0 {
		items = append(items, Item[T]{Lost: c.pending})
		c.pending = Lost{}
	}
	return items
}

// lose notes a loss between the cursor and the entry before.
func (l *Log[T]) lose(c *Cursor, lost total, before uint64) {
	if lost.messages == 0 {
		return
	}
	if c.pending.Messages == 0 {
		c.pending.Parent = l.parentOf(c.seq, before)
	}
	c.pending.Messages += lost.messages
	c.pending.Bytes += lost.bytes
}

// parentOf returns the parent of the first entry that was lost after seq.
func (l *Log[T]) parentOf(after, before uint64) []byte {
	var parent []byte
	for _, runs := range l.runs {
		i := sort.Search(len(runs), func(i int) bool { return runs[i].last > after })
		if i == len(runs) {
			continue
		}
		if first := max(runs[i].first, after+1); first < before {
			before, parent = first, runs[i].parent
		}
	}
	return parent
}

// after returns the index of the first slot behind seq.
func (l *Log[T]) after(seq uint64) int {
	live := l.slots[l.head:]
	return l.head + sort.Search(len(live), func(i int) bool { return live[i].Seq > seq })
}

// difference is never below zero: the totals of a reader that was forgotten
// begin anew.
func difference(a, b total) total {
	return total{a.messages - min(a.messages, b.messages), a.bytes - min(a.bytes, b.bytes)}
}

func sum(a, b total) total { return total{a.messages + b.messages, a.bytes + b.bytes} }

// Stats says what a log holds.
type Stats struct {
	Last    uint64 // number of the newest entry ever appended, 0 when there was none
	Entries int
	Bytes   int64 // of the budget
}

// Stats returns what the log holds now.
func (l *Log[T]) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Stats{Last: l.last, Entries: len(l.slots) - l.head - l.holes, Bytes: l.used}
}
