package process

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"
)

// logHalf is when the log starts anew; what was there is kept once, under
// oldSuffix. So the log holds between half and all of the last MiB.
const (
	logHalf   = 512 << 10
	oldSuffix = ".1"
)

// boundedLog keeps the last of what is written to its input, which is a pipe,
// and never blocks the writer for long.
type boundedLog struct {
	path  string
	input *os.File      // for the writer
	done  chan struct{} // closed when all writers have closed the input
}

func openLog(path string) (*boundedLog, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the agent's log: %w", err)
	}
	output, input, err := os.Pipe()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("cannot open the agent's log: %w", err)
	}
	l := &boundedLog{path: path, input: input, done: make(chan struct{})}
	go l.keep(output, file)
	return l, nil
}

// started is called when the writer has inherited the input.
func (l *boundedLog) started() { _ = l.input.Close() }

// join waits until all is written that was to come, at most for d.
func (l *boundedLog) join(d time.Duration) {
	select {
	case <-l.done:
	case <-time.After(d):
	}
}

// keep copies until the end. What cannot be written is dropped, as on a full
// disk: the writer must not wait.
func (l *boundedLog) keep(output io.ReadCloser, file *os.File) {
	defer close(l.done)
	defer output.Close()
	buf := make([]byte, 32<<10)
	size := 0
	for {
		n, err := output.Read(buf)
		if size += n; size > logHalf {
			if next, err := l.rotate(); err == nil {
				_ = file.Close()
				file, size = next, n
			}
		}
		if size <= logHalf {
			_, _ = file.Write(buf[:n])
		}
		if err != nil {
			_ = file.Close()
			return
		}
	}
}

func (l *boundedLog) rotate() (*os.File, error) {
	if err := os.Rename(l.path, l.path+oldSuffix); err != nil {
		return nil, err
	}
	return os.OpenFile(l.path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
}

// lastLine returns the last line of the log that says something, in a form
// that can be shown to a user.
func (l *boundedLog) lastLine() string {
	data, err := os.ReadFile(l.path)
	if err != nil {
		return ""
	}
	data = bytes.TrimSpace(data)
	line := string(data[bytes.LastIndexByte(data, '\n')+1:])
	line = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, line)
	const most = 200
	if runes := []rune(line); len(runes) > most {
		line = string(runes[:most]) + "..."
	}
	return line
}
