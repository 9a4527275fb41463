// Package outputlog keeps the text that a kernel prints, all of it, in numbered
// compressed parts on disk until somebody has stored them elsewhere. Who notes text
// never waits, neither for the compression nor for the disk: that is done beside it.
// What the package holds is bounded: text for which there is no room is missing, and
// the next part says how much text was before it. It knows nothing of Jupyter but
// that text comes as a JSON string, and nothing of who stores the parts.
package outputlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"kernelgw/sandboxes/agentapi"
)

// Options are what a Log needs.
type Options struct {
	Dir     string       // where a directory for the parts is made, at the first of them
	Budget  int64        // bytes of all parts that wait
	Changed func()       // called, without a lock, when there are more parts or fewer
	Log     *slog.Logger // for what is missing
}

// Log is safe for concurrent use. Make one with New.
type Log struct {
	queue queue
	spool spool
	over  chan struct{} // closed when Run has returned
	open  atomic.Bool   // what was worked off is not all in parts; stored by Run

	packer packer // owned by Run
}

// New makes a Log that holds nothing.
func New(o Options) *Log {
	l := &Log{
		queue: newQueue(queueBytes),
		spool: spool{place: o.Dir, budget: o.Budget, changed: o.Changed, log: o.Log},
		over:  make(chan struct{}),
	}
	l.packer = packer{spool: &l.spool, log: o.Log, full: agentapi.OutputPartSize, most: agentapi.OutputPartBytes}
	return l
}

// Run makes parts of what was noted until ctx ends, then it forgets everything and
// removes it from the disk. It is called once. The error is that of the removal.
func (l *Log) Run(ctx context.Context) error {
	var items []item
	for ctx.Err() == nil {
		items = l.queue.take(ctx, items)
		for i := range items {
			if ctx.Err() != nil {
				break
			}
			l.work(&items[i])
		}
	}
	l.queue.close()
	l.open.Store(false)
	defer close(l.over)
	return l.spool.forget()
}

// work works off an item.
func (l *Log) work(i *item) {
	sealed := i.sealed
	switch {
	case sealed != nil:
		l.packer.seal(time.Now())
	case i.old:
		l.packer.sealOld(i.at)
	case i.lost > 0:
		l.packer.lose(i.lost)
	default:
		l.packer.text(i.raw, i.at)
	}
	l.open.Store(l.packer.open()) // before the item is done: one of both says that there is something
	l.queue.done(i)
	if sealed != nil {
		close(sealed)
	}
}

// Text takes a text that was printed, as a JSON string with its quotes. What is no
// such string is taken as far as it is one. raw is part of so many bytes of memory,
// which may be kept, and must not be changed any more.
func (l *Log) Text(raw []byte, memory int, now time.Time) { l.queue.text(raw, memory, now) }

// Lose notes that so many bytes were printed that nobody has.
func (l *Log) Lose(size int64) {
	if size > 0 {
		l.queue.control(item{lost: size})
	}
}

// Open reports whether there is anything of which Seal makes a part.
func (l *Log) Open() bool { return l.Busy() || l.open.Load() }

// Busy reports whether what was noted is not all compressed yet.
func (l *Log) Busy() bool { return !l.queue.empty() }

// errOver: Run has ended.
var errOver = errors.New("the log has ended")

// Seal makes a part of what was noted before, and waits for that. ctx ends the wait.
func (l *Log) Seal(ctx context.Context) error {
	sealed := make(chan struct{})
	l.queue.control(item{sealed: sealed})
	select {
	case <-sealed:
		return nil
	case <-l.over:
		return fmt.Errorf("cannot make a part of what was printed: %w", errOver)
	case <-ctx.Done():
		return fmt.Errorf("cannot make a part of what was printed: %w", context.Cause(ctx))
	}
}

// SealOld has a part made of what there is if that is old enough.
func (l *Log) SealOld(now time.Time) { l.queue.control(item{old: true, at: now}) }

// Parts returns how many parts wait.
func (l *Log) Parts() int { return int(l.spool.waiting.Load()) }

// Neglected returns for how long parts have been waiting, and nobody asked for one.
func (l *Log) Neglected() time.Duration { return l.spool.neglected() }

// Oldest returns the oldest part that waits; ok is false when there is none. A part
// that cannot be read is lost.
func (l *Log) Oldest() (p agentapi.OutputLogPart, content []byte, ok bool) { return l.spool.oldest() }

// Stored forgets the parts up to a number, and reports whether there were any.
func (l *Log) Stored(number int64) bool { return l.spool.stored(number) }
