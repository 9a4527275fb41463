// Package outputlog keeps the text that a kernel prints, all of it, in numbered
// compressed parts on disk until somebody has stored them elsewhere. What it holds is
// bounded: text for which there is no room is missing, and the next part says how
// much text was before it. It knows nothing of Jupyter but that text comes as a JSON
// string, and nothing of who stores the parts.
package outputlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"

	"kernelgw/sandboxes/agentapi"
)

// Options are what a Log needs.
type Options struct {
	Dir     string       // where a directory for the parts is made, at the first of them
	Budget  int64        // bytes of all parts that wait
	Changed func()       // called, without a lock, when there are more parts or fewer
	Log     *slog.Logger // for what is missing
}

const (
	// partAge is how old the first text of a part becomes before it is made.
	partAge = 5 * time.Minute
	// piece is how much text is compressed between two looks at the size of a part.
	piece = 64 << 10 // and once as much at most
)

// Log is safe for concurrent use. Make one with New.
type Log struct {
	// set at construction
	o    Options
	full int   // bytes of a part, from which it is made
	most int64 // bytes of text in a part

	mu         sync.Mutex
	dir        string // "" before the first part
	parts      []agentapi.OutputLogPart
	spooled    int64 // bytes of parts
	number     int64 // of the last part
	told       int64 // bytes of text up to the end of the last part
	offset     int64 // bytes of text that there have been
	packed     bytes.Buffer
	gzip       *gzip.Writer // writes to packed; nil before the first text
	size       int64        // bytes of text in packed
	begun      time.Time    // when the first of them came
	missing    bool         // text is missing, which was logged
	closed     bool
	unescaping unescaper
}

// New makes a Log that holds nothing.
func New(o Options) *Log {
	return &Log{o: o, full: agentapi.OutputPartSize, most: agentapi.OutputPartBytes}
}

// Text takes a text that was printed, as a JSON string with its quotes. What is no
// such string is taken as far as it is one.
func (l *Log) Text(raw []byte, now time.Time) {
	l.change(func() {
		l.unescaping.each(raw, piece, func(text []byte) { l.write(text, now) })
	})
}

// Lose notes that so many bytes were printed that nobody has.
func (l *Log) Lose(size int64) {
	l.change(func() {
		if l.size > 0 {
			l.seal() // what is missing is behind it
		}
		l.offset += size
	})
}

// change does something with the lock, and tells if it made parts.
func (l *Log) change(do func()) {
	l.mu.Lock()
	before := len(l.parts)
	do()
	made := len(l.parts) != before
	l.mu.Unlock()
	if made {
		l.o.Changed()
	}
}

// write needs the lock.
func (l *Log) write(text []byte, now time.Time) {
	if len(text) == 0 {
		return
	}
	l.offset += int64(len(text))
	if l.closed {
		return
	}
	if l.size == 0 {
		l.begin(now)
	}
	_, _ = l.gzip.Write(text) // to memory
	l.size += int64(len(text))
	if l.packed.Len() >= l.full || l.size > l.most-2*piece {
		l.seal()
	}
}

// begin begins a part. It needs the lock.
func (l *Log) begin(now time.Time) {
	l.packed.Reset()
	l.begun = now
	if l.gzip == nil {
		l.gzip, _ = gzip.NewWriterLevel(&l.packed, gzip.BestSpeed) // the level is valid
		return
	}
	l.gzip.Reset(&l.packed)
}

// Open reports whether there is anything of which Seal makes a part.
func (l *Log) Open() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.closed && (l.size > 0 || l.offset > l.told)
}

// Seal makes a part of what there is.
func (l *Log) Seal(now time.Time) {
	l.change(func() {
		switch {
		case l.size > 0:
			l.seal()
		case l.offset > l.told && !l.closed:
			l.begin(now) // an empty one says what is missing before it
			l.seal()
		}
	})
}

// SealOld makes a part of what there is if that is old enough.
func (l *Log) SealOld(now time.Time) {
	l.change(func() {
		if l.size > 0 && now.Sub(l.begun) >= partAge {
			l.seal()
			l.gzip, l.packed = nil, bytes.Buffer{} // a kernel that prints little takes no memory for it
		}
	})
}

// seal makes a part of what was begun, or loses it. It needs the lock.
func (l *Log) seal() {
	_ = l.gzip.Close() // to memory
	p := agentapi.OutputLogPart{
		Number: l.number + 1, From: l.offset - l.size, Bytes: l.size, Size: int64(l.packed.Len()), Begun: l.begun.UTC(),
	}
	l.size = 0
	if err := l.keep(p); err != nil {
		if !l.missing {
			l.o.Log.Warn("output is missing in its log", "from", p.From, "bytes", p.Bytes, "error", err.Error())
		}
		l.missing = true
		return
	}
	l.missing = false
	l.number, l.told = p.Number, p.From+p.Bytes
	l.parts = append(l.parts, p)
	l.spooled += p.Size
	if l.packed.Cap() > agentapi.MaxOutputPartSize {
		l.packed = bytes.Buffer{} // after what cannot be compressed
	}
}

var errFull = errors.New("too much waits to be stored")

// keep writes a part to disk. It needs the lock.
func (l *Log) keep(p agentapi.OutputLogPart) error {
	if l.spooled+p.Size > l.o.Budget {
		return errFull
	}
	if l.dir == "" {
		dir, err := os.MkdirTemp(l.o.Dir, "output-")
		if err != nil {
			return err
		}
		l.dir = dir
	}
	name := l.file(p.Number)
	if err := os.WriteFile(name, l.packed.Bytes(), 0o600); err != nil {
		_ = os.Remove(name) // what there is of it
		return err
	}
	return nil
}

// file returns where a part is. It needs the lock.
func (l *Log) file(number int64) string {
	return filepath.Join(l.dir, strconv.FormatInt(number, 10)+".gz")
}

// Parts returns how many parts wait.
func (l *Log) Parts() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.parts)
}

// Oldest returns the oldest part that waits; ok is false when there is none. A part
// that cannot be read is lost.
func (l *Log) Oldest() (p agentapi.OutputLogPart, content []byte, ok bool) {
	for {
		l.mu.Lock()
		if len(l.parts) == 0 {
			l.mu.Unlock()
			return p, nil, false
		}
		p = l.parts[0]
		name := l.file(p.Number)
		l.mu.Unlock()
		content, err := read(name, p.Size)
		if err == nil {
			return p, content, true
		}
		if l.Stored(p.Number) { // else it was stored meanwhile
			l.o.Log.Warn("output is missing in its log", "from", p.From, "bytes", p.Bytes, "error", err.Error())
		}
	}
}

// read reads a file of a size: the kernel may be the same user, and change it.
func read(name string, size int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content := make([]byte, size)
	if _, err := io.ReadFull(f, content); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	return content, nil
}

// Stored forgets the parts up to a number, and reports whether there were any.
func (l *Log) Stored(number int64) bool {
	l.mu.Lock()
	n := 0
	for n < len(l.parts) && l.parts[n].Number <= number {
		l.spooled -= l.parts[n].Size
		_ = os.Remove(l.file(l.parts[n].Number)) // Close removes what is left
		n++
	}
	l.parts = l.parts[n:]
	l.mu.Unlock()
	if n > 0 {
		l.o.Changed()
	}
	return n > 0
}

// Close forgets everything and removes it from the disk.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed, l.parts, l.size, l.gzip, l.packed = true, nil, 0, nil, bytes.Buffer{}
	if l.dir == "" {
		return nil
	}
	dir := l.dir
	l.dir = ""
	return os.RemoveAll(dir)
}
