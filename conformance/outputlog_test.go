package conformance

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"kernelgw/conformance/probe"
	"kernelgw/conformance/servers"
)

// A cell that prints blocks of lines far past what a cell may show, each line another,
// and the same in Go.
const (
	printedBlock = 1000
	printingMuch = `
import time
for block in range(%[1]d):
    if block == %[1]d // 2:
        time.sleep(2)  # while which the gateway is killed
    print('\n'.join(f'{i:09d} {i * 2654435761 %% 4294967296:010d} é' + 'x' * 76 for i in range(block * %[2]d, (block + 1) * %[2]d)))
`
)

// muchPrinted is how many lines it prints, of 100 bytes.
func muchPrinted(t *testing.T) int {
	if os.Getenv("KERNELGW_LONG") != "" {
		return 10_000_000
	}
	fmt.Fprintf(os.Stderr, "!! NOT CHECKED: %s: a gigabyte; it is 30 MB: KERNELGW_LONG=1 prints the whole\n", t.Name())
	return 300_000
}

var filler = []byte("é" + string(bytes.Repeat([]byte("x"), 76)) + "\n")

// comparer is a writer that compares what is written, behind where it begins, with what
// is expected.
type comparer struct {
	begun bool
	head  []byte        // what came before it had begun
	next  func() []byte // the next piece that is expected, nil at the end
	left  []byte
	n     int64
}

// begin is printed by a first cell: kernels may print something when they start.
const begin = "here it begins\n"

func (c *comparer) Write(p []byte) (int, error) {
	at := 0
	if !c.begun {
		before := len(c.head)
		c.head = append(c.head, p...)
		i := bytes.Index(c.head, []byte(begin))
		if i < 0 {
			return len(p), nil
		}
		c.begun, at = true, i+len(begin)-before
	}
	for at < len(p) {
		if len(c.left) == 0 {
			if c.left = c.next(); c.left == nil {
				return at, fmt.Errorf("after %d bytes more comes: %.100q", c.n, p[at:])
			}
		}
		n := min(len(c.left), len(p)-at)
		if !bytes.Equal(c.left[:n], p[at:at+n]) {
			return at, fmt.Errorf("at byte %d comes %.100q, want %.100q", c.n, p[at:at+n], c.left[:n])
		}
		c.left, c.n, at = c.left[n:], c.n+int64(n), at+n
	}
	return len(p), nil
}

// end reports what is missing.
func (c *comparer) end() error {
	if len(c.left) > 0 || c.next() != nil {
		return fmt.Errorf("only %d bytes came, behind %.200q", c.n, c.head)
	}
	return nil
}

// expected is so many lines of what the cell prints, and the words after it.
func expected(lines int, words ...string) *comparer {
	i := 0
	var line []byte
	return &comparer{next: func() []byte {
		if i < lines {
			line = fmt.Appendf(line[:0], "%09d %010d ", i, uint64(i)*2654435761%4294967296)
			line = append(line, filler...)
			i++
			return line
		}
		if len(words) == 0 {
			return nil
		}
		word := words[0]
		words = words[1:]
		return []byte(word)
	}}
}

var budgetMarker = regexp.MustCompile(`^output truncated: (\d+) messages, (\d+) bytes past the 2 MiB that a cell may show \(output_cell\); the text is in /w/anns/v1/sessions/([0-9a-f-]{36})/logs\n$`)

// A cell prints many megabytes as fast as it can, where it may show 2 MiB, and the gateway is
// killed meanwhile: what is past the budget is one mark in its place, the cell ends as
// others do, and all that it printed can be read, also when the session has ended.
func TestAllThatACellPrintsCanBeReadAlthoughTheGatewayIsKilled(t *testing.T) {
	t.Parallel()
	users := []servers.User{
		{Name: "ann", Token: probe.ID(), Workspaces: []string{"anns"}},
		{Name: "bob", Token: probe.ID(), Workspaces: []string{"bobs"}},
	}
	ann := own(t, servers.Options{Users: users, Args: []string{"--output-cell", "2MiB"}})
	bob := newOwned(&probe.Server{Base: ann.Base, Token: users[1].Token}, ann.process, false)
	x := newSession(t, ann, map[string]any{"path": "much.ipynb", "type": "notebook", "name": ""})
	page := probe.ID()
	w := ann.Dial(t, x.Kernel.ID, probe.Dialing{Session: page})
	w.Run(t, fmt.Sprintf("print(%q)", strings.TrimSpace(begin)))
	began, lines := time.Now(), muchPrinted(t)
	id := w.Start(t, fmt.Sprintf(printingMuch, lines/printedBlock, printedBlock))
	replied, idle := false, false
	note := func(m probe.Message) {
		replied = replied || m.Parent.MsgID == id && m.Channel == "shell"
		idle = idle || m.Parent.MsgID == id && m.State() == "idle"
	}
	_, before := w.Wait(t, probe.Patience, "output", func(m probe.Message) bool { return m.Header.MsgType == "stream" })
	if err := ann.process.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, m := range before {
		note(m)
	}
	for { // what had come before the kill
		m, err := w.TryNext(probe.Patience)
		if err != nil {
			break
		}
		note(m)
	}
	t.Logf("the gateway was killed after %d messages, before the end of the cell: %v", len(before)+1, !idle)
	if err := ann.process.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w = ann.Dial(t, x.Kernel.ID, probe.Dialing{Session: page})
	for !replied || !idle {
		m, err := w.TryNext(5 * time.Minute)
		if err != nil {
			t.Fatalf("waiting for the end of the cell (reply %v, idle %v): %v", replied, idle, err)
		}
		note(m)
	}
	t.Logf("the cell ended after %v", time.Since(began).Round(time.Millisecond))
	if got := w.Run(t, "print('next')").Stdout; got != "next\n" {
		t.Errorf("the next cell says %q", got)
	}

	shown, lost, markers := int64(0), int64(0), 0
	for _, e := range pages(t, ann, x.ID, "0", "") {
		text, _ := e.Msg.Content["text"].(string)
		m := budgetMarker.FindStringSubmatch(text)
		switch {
		case e.Lost != nil:
			t.Errorf("the event log lost %v", e.Lost)
		case e.Msg.Parent.MsgID != id || e.Msg.Header.MsgType != "stream":
		case m != nil:
			markers++
			lost, _ = strconv.ParseInt(m[2], 10, 64)
			if e.Msg.Content["name"] != "stderr" || m[3] != x.Kernel.ID {
				t.Errorf("the mark is %q on %v", text, e.Msg.Content["name"])
			}
		case e.Msg.Content["name"] == "stdout" && markers > 0:
			t.Error("output follows the mark")
		case e.Msg.Content["name"] == "stdout":
			shown += int64(len(text))
		}
	}
	all := int64(lines) * 100
	// What counts are the messages' contents, in which a line takes some bytes more.
	if markers != 1 || shown < 2<<20*9/10 || shown > 2<<20 || lost < all-shown || lost > all+10*int64(lines) {
		t.Errorf("%d bytes were shown, %d marks say that %d were not, of %d", shown, markers, lost, all)
	}

	checkParts(t, ann, x.ID, expected(lines, "next\n"))
	for _, base := range []string{"", "w/bobs/", "w/anns/"} {
		for _, id := range []string{x.ID, x.Kernel.ID} {
			for _, path := range []string{"/logs", "/logs/text", "/logs/x"} {
				bob.Do(t, "GET", base+"v1/sessions/"+id+path, nil).Want(t, 404)
			}
		}
	}
	w.Run(t, "print('last', end='')")
	currentLog(t, ann, x.ID)
	ann.Do(t, "DELETE", "api/sessions/"+x.ID, nil).Want(t, 204)
	for _, id := range []string{x.ID, x.Kernel.ID} {
		text := expected(lines, "next\n", "last")
		ann.Download(t, "v1/sessions/"+id+"/logs/text", text)
		if err := text.end(); err != nil {
			t.Errorf("the text of the log: %v", err)
		}
	}
	var files struct{ Content []any }
	ann.Do(t, "GET", "api/contents?content=1", nil).Want(t, 200).Decode(t, &files)
	if len(files.Content) != 0 {
		t.Errorf("the log is among the files: %v", files.Content)
	}
	ann.Do(t, "GET", "v1/sessions/"+probe.ID()+"/logs", nil).Want(t, 404)
}

// logList is the list of a log.
type logList struct {
	Parts []struct {
		Name        string
		Bytes, Size int64
	}
	Missing int64
	Current bool
}

// currentLog waits until all that was printed is in the log of a session.
func currentLog(t *testing.T, s *target, id string) (list logList) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); !list.Current; {
		if time.Now().After(end) {
			t.Fatalf("the log does not get what was printed last: %+v", list)
		}
		list = logList{}
		s.Do(t, "GET", "v1/sessions/"+id+"/logs", nil).Want(t, 200).Decode(t, &list)
	}
	return list
}

// checkParts checks that the parts of the log of a session are what was printed.
func checkParts(t *testing.T, s *target, id string, text *comparer) {
	t.Helper()
	list := currentLog(t, s, id)
	if len(list.Parts) == 0 || list.Missing != 0 {
		t.Errorf("the list of the log is %+v", list)
	}
	for _, p := range list.Parts {
		var packed bytes.Buffer
		s.Download(t, "v1/sessions/"+id+"/logs/"+p.Name, &packed)
		if int64(packed.Len()) != p.Size {
			t.Errorf("part %s has %d bytes, want %d", p.Name, packed.Len(), p.Size)
		}
		r, err := gzip.NewReader(&packed)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(text, r); err != nil || n != p.Bytes {
			t.Fatalf("part %s holds %d bytes of text, want %d: %v", p.Name, n, p.Bytes, err)
		}
	}
	if err := text.end(); err != nil {
		t.Errorf("the parts of the log: %v", err)
	}
}
