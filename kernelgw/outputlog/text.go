package outputlog

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
)

// Missing returns how many bytes of text are missing before a part that follows
// another, nil where it is the first: more than none after one that was lost, or is
// not kept any more. What two parts both claim to have is nowhere missing.
func Missing(before *Part, p Part) int64 {
	if before == nil || before.Run != p.Run {
		return p.From
	}
	return max(0, p.From-before.From-before.Bytes)
}

// WriteText writes the text of parts, as it was printed. Where some is missing, a line
// says so. An error may be one of w's, or leave the text unfinished; that a part
// holds something else than it says is none.
func (l *Logs) WriteText(ctx context.Context, w io.Writer, workspace string, parts []Part) error {
	var before *Part
	for i, p := range parts {
		missing := Missing(before, p)
		before = &parts[i]
		if err := note(w, missing); err != nil {
			return err
		}
		if p.Bytes == 0 {
			continue
		}
		content, err := l.Open(ctx, workspace, p)
		if errors.Is(err, ErrNotFound) { // removed since it was listed
			if err := note(w, p.Bytes); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		short, err := unpack(w, content, p.Bytes)
		content.Close()
		if err == nil {
			err = note(w, short)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// note says that so many bytes are missing, unless none are.
func note(w io.Writer, missing int64) error {
	if missing <= 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "\n[%d bytes of output are missing here]\n", missing)
	return err
}

// unpack writes the text of a gzip file, at most so many bytes, and returns how many
// it is short of that. An error is one of w, or of reading from a storage.
func unpack(w io.Writer, packed io.Reader, size int64) (short int64, err error) {
	from := &source{r: packed}
	var text io.Reader
	if text, err = gzip.NewReader(bufio.NewReader(from)); err != nil {
		return size, from.failed
	}
	to := &sink{w: w}
	n, err := io.Copy(to, io.LimitReader(text, size))
	switch {
	case to.failed != nil:
		return 0, to.failed
	case from.failed != nil:
		return 0, from.failed
	case err != nil: // what an agent sent is no such file
		return size - n, nil
	}
	return size - n, nil
}

// source notes an error of what is read that is not its end.
type source struct {
	r      io.Reader
	failed error
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.failed = err
	}
	return n, err
}

// sink notes an error of what is written.
type sink struct {
	w      io.Writer
	failed error
}

// Write implements io.Writer.
func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.failed = err
	return n, err
}
