package gvisor

import (
	"bytes"
	"os"
	"sync"
)

// maxLogBytes bounds each of the two files of a sandbox's log. What writes
// there is inside the sandbox and may be hostile.
const maxLogBytes = 256 << 10

// boundedLog copies what a sandbox prints into a file. When the file is full it
// becomes the old one, PATH.1, and a new one begins; so the end is always kept.
type boundedLog struct {
	path string
	in   *os.File
	done chan struct{}

	mu sync.Mutex

	// guarded by mu
	file *os.File
	size int
}

// newBoundedLog copies from in, which it closes, to path until in ends. A file
// that cannot be written loses the log and nothing else.
func newBoundedLog(path string, in *os.File) *boundedLog {
	l := &boundedLog{path: path, in: in, done: make(chan struct{})}
	l.rotate()
	go l.copyAll()
	return l
}

func (l *boundedLog) copyAll() {
	defer close(l.done)
	defer l.in.Close()
	buf := make([]byte, 16<<10)
	for {
		n, err := l.in.Read(buf)
		l.write(buf[:n])
		if err != nil {
			break
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
}

// println adds a line of the supervisor's own. It is lost once the log has ended.
func (l *boundedLog) println(text string) { l.write([]byte(text + "\n")) }

func (l *boundedLog) write(data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size+len(data) > maxLogBytes {
		l.rotate()
	}
	if len(data) > 0 && l.file != nil {
		_, _ = l.file.Write(data)
		l.size += len(data)
	}
}

func (l *boundedLog) rotate() {
	if l.file != nil {
		_ = l.file.Close()
		_ = os.Rename(l.path, l.path+".1")
	}
	l.file, _ = os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	l.size = 0
}

// join returns when all that was printed has been copied, that is, when no
// process holds the other end of the pipe any more.
func (l *boundedLog) join() { <-l.done }

// tail returns the last lines of the log, for an error message.
func (l *boundedLog) tail() string {
	data, err := os.ReadFile(l.path)
	if err != nil {
		return ""
	}
	const most = 1000
	if len(data) > most {
		data = data[len(data)-most:]
	}
	return string(bytes.TrimSpace(data))
}
