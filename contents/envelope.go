package contents

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

const (
	// envelopeValue bounds what is beside the content in a request's body.
	envelopeValue = 64 << 10
	// envelopeDepth bounds how deep values are nested, there and in notebooks.
	envelopeDepth = 1000
)

// envelope is the body of a request, a model of which the client fills in what it
// wants. The content is in a spool: as it is sent when it is no string (JSON), and
// unescaped when it is.
type envelope struct {
	Type     string `json:"type"`
	Format   string `json:"format"`
	Path     string `json:"path"`
	CopyFrom string `json:"copy_from"`
	Ext      string `json:"ext"`
	Chunk    *int   `json:"chunk"`

	empty   bool   // there was no body, or only null
	kind    byte   // first byte of the content's value: '{', '"', ...; 0 when there is none
	content *spool // nil when kind is 0
}

// Close lets the content go.
func (e *envelope) Close() {
	if e.content != nil {
		e.content.Close()
	}
}

// readEnvelope reads a request's body without holding its content in memory. The
// caller closes the envelope, unless there is an error.
func (h *Handlers) readEnvelope(w http.ResponseWriter, r *http.Request, owner string) (*envelope, error) {
	body := http.MaxBytesReader(w, r.Body, h.o.MaxBodyBytes)
	buffered, ok := h.skim.Get().(*bufio.Reader)
	if !ok {
		buffered = bufio.NewReaderSize(nil, 64<<10)
	}
	buffered.Reset(body)
	defer func() {
		buffered.Reset(nil)
		h.skim.Put(buffered)
	}()
	reader := envelopeReader{r: buffered, content: h.spool(owner, h.o.MaxBodyBytes)}
	reader.content.expect(r.ContentLength)
	e, err := reader.read()
	if err != nil {
		reader.content.Close()
		var tooLong *http.MaxBytesError
		switch {
		case errors.As(err, &tooLong):
			return nil, failed(tooLong, "")
		case errors.Is(err, errJSON), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil, &Error{Status: http.StatusBadRequest, Message: "Invalid JSON in body of request", Cause: err}
		}
		return nil, spoolFailed(err)
	}
	return e, nil
}

// errJSON is what no JSON text of a model can be.
var errJSON = errors.New("not a JSON object of a model")

func notJSON(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errJSON, fmt.Sprintf(format, args...))
}

type envelopeReader struct {
	r       *bufio.Reader
	content *spool
	small   strings.Builder
}

func (d *envelopeReader) read() (*envelope, error) {
	e := &envelope{}
	first, err := d.skipSpace()
	if errors.Is(err, io.EOF) {
		e.empty = true
		return e, nil
	}
	if err != nil {
		return nil, err
	}
	if first == 'n' {
		e.empty = true
		return e, d.end(d.copyValue(first, &d.small))
	}
	if first != '{' {
		return nil, notJSON("it begins with %q", first)
	}
	members := map[string]json.RawMessage{}
	for separator := byte('{'); ; {
		c, err := d.skipSpace()
		if err != nil {
			return nil, err
		}
		if c == '}' && separator == '{' {
			break
		}
		if c != '"' {
			return nil, notJSON("%q instead of a key", c)
		}
		if err := d.member(e, members); err != nil {
			return nil, err
		}
		if separator, err = d.skipSpace(); err != nil {
			return nil, err
		}
		if separator == '}' {
			break
		}
		if separator != ',' {
			return nil, notJSON("%q after a value", separator)
		}
	}
	if err := d.end(nil); err != nil {
		return nil, err
	}
	known, err := json.Marshal(members)
	if err == nil {
		err = json.Unmarshal(known, e)
	}
	if err != nil {
		return nil, notJSON("%v", err)
	}
	return e, nil
}

// end makes sure that nothing follows.
func (d *envelopeReader) end(err error) error {
	if err != nil {
		return err
	}
	c, err := d.skipSpace()
	if err == nil {
		return notJSON("%q after the end", c)
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// member reads a key, whose quote was read, and its value.
func (d *envelopeReader) member(e *envelope, members map[string]json.RawMessage) error {
	d.small.Reset()
	if err := d.unescape(&bounded{w: &d.small}); err != nil {
		return err
	}
	key := d.small.String()
	colon, err := d.skipSpace()
	if err != nil {
		return err
	}
	if colon != ':' {
		return notJSON("%q after a key", colon)
	}
	first, err := d.skipSpace()
	if err != nil {
		return err
	}
	if key != "content" {
		d.small.Reset()
		if err := d.copyValue(first, &bounded{w: &d.small}); err != nil {
			return err
		}
		switch key {
		case "type", "format", "path", "copy_from", "ext", "chunk":
			members[key] = json.RawMessage(d.small.String())
		}
		return nil
	}
	if e.kind != 0 {
		return notJSON("two contents")
	}
	if first == 'n' {
		return d.copyValue(first, &bounded{w: io.Discard})
	}
	e.kind, e.content = first, d.content
	if first == '"' {
		return d.unescape(d.content)
	}
	return d.copyValue(first, d.content)
}

// bounded is a writer of what must be small.
type bounded struct {
	w io.Writer
	n int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.n += len(p); b.n > envelopeValue {
		return 0, notJSON("a value beside the content has more than %d bytes", envelopeValue)
	}
	return b.w.Write(p)
}

func (d *envelopeReader) skipSpace() (byte, error) {
	for {
		c, err := d.r.ReadByte()
		if err != nil || c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return c, err
		}
	}
}

// copyValue copies a JSON value, whose first byte was read, without judging what
// is between its brackets: whoever parses it does.
func (d *envelopeReader) copyValue(first byte, w io.Writer) error {
	depth, quoted, escaped := 0, false, false
	if _, err := w.Write([]byte{first}); err != nil {
		return err
	}
	switch first {
	case '{', '[':
		depth = 1
	case '"':
		quoted = true
	default:
		return d.copyScalar(w)
	}
	for depth > 0 || quoted {
		piece, err := d.piece()
		if err != nil {
			return err
		}
		n := 0
		for n < len(piece) && (depth > 0 || quoted) {
			if quoted && !escaped { // most of what is long
				plain, _ := plainText(piece[n:])
				n += plain
				for n < len(piece) && piece[n] != '"' && piece[n] != '\\' {
					n++
				}
				if n == len(piece) {
					break
				}
			}
			c := piece[n]
			n++
			switch {
			case escaped:
				escaped = false
			case quoted:
				escaped = c == '\\'
				quoted = c != '"'
			case c == '"':
				quoted = true
			case c == '{' || c == '[':
				depth++
			case c == '}' || c == ']':
				depth--
			}
		}
		if _, err := w.Write(piece[:n]); err != nil {
			return err
		}
		d.discard(n)
	}
	return nil
}

// copyScalar copies the rest of a number or a word.
func (d *envelopeReader) copyScalar(w io.Writer) error {
	for range envelopeDepth {
		next, err := d.r.Peek(1)
		if errors.Is(err, io.EOF) || err == nil && strings.IndexByte(" \n\t\r,}]", next[0]) >= 0 {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(next); err != nil {
			return err
		}
		d.discard(1)
	}
	return notJSON("an endless number")
}

// piece returns what is buffered, at least a byte.
func (d *envelopeReader) piece() ([]byte, error) {
	if _, err := d.r.Peek(1); err != nil {
		return nil, unexpected(err)
	}
	return d.r.Peek(d.r.Buffered())
}

// discard drops bytes that were peeked at, which cannot fail.
func (d *envelopeReader) discard(n int) { _, _ = d.r.Discard(n) }

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
