package outputlog

import (
	"bytes"
	"log/slog"
	"time"

	"github.com/klauspost/compress/gzip"

	"kernelgw/sandboxes/agentapi"
)

const (
	// partAge is how old the first text of a part becomes before it is made.
	partAge = 5 * time.Minute
	// piece is how much text is compressed between two looks at the size of a part.
	piece = 64 << 10 // and once as much at most
)

// packer makes parts of text. It belongs to one goroutine.
type packer struct {
	// set at construction
	spool *spool
	log   *slog.Logger
	full  int   // bytes of a part, from which it is made
	most  int64 // bytes of text in a part

	number     int64 // of the last part
	told       int64 // bytes of text up to the end of the last part
	offset     int64 // bytes of text that there have been
	packed     bytes.Buffer
	gzip       *gzip.Writer // writes to packed; nil before the first text
	size       int64        // bytes of text in packed
	begun      time.Time    // when the first of them came
	missing    bool         // text is missing, which was logged
	unescaping unescaper
}

func (p *packer) text(raw []byte, at time.Time) {
	p.unescaping.each(raw, piece, func(text []byte) { p.write(text, at) })
}

// lose notes that text is missing.
func (p *packer) lose(size int64) {
	if p.size > 0 {
		p.finish() // what is missing is behind it
	}
	p.offset += size
}

func (p *packer) write(text []byte, at time.Time) {
	if len(text) == 0 {
		return
	}
	p.offset += int64(len(text))
	if p.size == 0 {
		p.begin(at)
	}
	_, _ = p.gzip.Write(text) // to memory
	p.size += int64(len(text))
	if p.packed.Len() >= p.full || p.size > p.most-2*piece {
		p.finish()
	}
}

// begin begins a part.
func (p *packer) begin(at time.Time) {
	p.packed.Reset()
	p.begun = at
	if p.gzip == nil {
		p.gzip, _ = gzip.NewWriterLevel(&p.packed, gzip.BestSpeed) // the level is valid
		return
	}
	p.gzip.Reset(&p.packed)
}

// open reports whether there is anything of which seal makes a part.
func (p *packer) open() bool { return p.size > 0 || p.offset > p.told }

// seal makes a part of what there is.
func (p *packer) seal(now time.Time) {
	switch {
	case p.size > 0:
		p.finish()
	case p.offset > p.told:
		p.begin(now) // an empty one says what is missing before it
		p.finish()
	}
}

// sealOld makes a part of what there is if that is old enough.
func (p *packer) sealOld(now time.Time) {
	if p.size > 0 && now.Sub(p.begun) >= partAge {
		p.finish()
		p.gzip, p.packed = nil, bytes.Buffer{} // a kernel that prints little takes no memory for it
	}
}

// finish makes a part of what was begun, or loses it.
func (p *packer) finish() {
	_ = p.gzip.Close() // to memory
	part := agentapi.OutputLogPart{
		Number: p.number + 1, From: p.offset - p.size, Bytes: p.size, Size: int64(p.packed.Len()), Begun: p.begun.UTC(),
	}
	p.size = 0
	if err := p.spool.keep(part, p.packed.Bytes()); err != nil {
		if !p.missing {
			p.log.Warn("output is missing in its log", "from", part.From, "bytes", part.Bytes, "error", err.Error())
		}
		p.missing = true
		return
	}
	p.missing = false
	p.number, p.told = part.Number, part.From+part.Bytes
	if p.packed.Cap() > agentapi.MaxOutputPartSize {
		p.packed = bytes.Buffer{} // after what cannot be compressed
	}
}
