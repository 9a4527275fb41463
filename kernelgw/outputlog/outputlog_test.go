package outputlog

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kernelgw/kernelgw/outputlog/outputlogtest"
)

const (
	kernel  = "aaaaaaaa-0000-4000-8000-000000000001"
	other   = "aaaaaaaa-0000-4000-8000-000000000002"
	session = "bbbbbbbb-0000-4000-8000-000000000001"
	sandbox = "k-0123456789abcdef0123456789abcdef"
)

func newLogs(change func(*Options)) (*Logs, *outputlogtest.Store) {
	s := outputlogtest.New()
	o := Options{Store: s, Log: slog.New(slog.DiscardHandler), Keep: 24 * time.Hour}
	if change != nil {
		change(&o)
	}
	return New(o), s
}

func packed(t testing.TB, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// put puts a part whose text is all that follows the one before.
func put(t *testing.T, l *Logs, workspace string, p Part, text string) {
	t.Helper()
	p.Bytes = int64(len(text))
	if p.Begun.IsZero() {
		p.Begun = time.UnixMilli(1_000)
	}
	if err := l.Put(t.Context(), workspace, p, packed(t, text), []string{session}); err != nil {
		t.Fatal(err)
	}
}

func text(t *testing.T, l *Logs, workspace, id string, kernels ...string) string {
	t.Helper()
	parts, err := l.Parts(t.Context(), workspace, id, kernels...)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := l.WriteText(t.Context(), &b, workspace, parts); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestOutputIsFoundByItsSessionAndItsKernels(t *testing.T) {
	l, _ := newLogs(nil)
	now := time.Now()
	first, second := NewRun(now, sandbox), NewRun(now.Add(time.Millisecond), sandbox)
	put(t, l, "w", Part{Log: kernel, Run: second, Number: 1}, "three ")
	put(t, l, "w", Part{Log: kernel, Run: first, Number: 2, From: 4}, "two ")
	put(t, l, "w", Part{Log: kernel, Run: first, Number: 1}, "one ")
	put(t, l, "w", Part{Log: other, Run: NewRun(now.Add(time.Hour), sandbox), Number: 1}, "four")
	put(t, l, "v", Part{Log: kernel, Run: first, Number: 1}, "not this")
	for id, want := range map[string]string{session: "one two three four", kernel: "one two three ", other: "four", strings.Replace(session, "b", "c", 1): "", "../x": ""} {
		if got := text(t, l, "w", id); got != want {
			t.Errorf("the output of %s is %q, want %q", id, got, want)
		}
	}
	if got := text(t, l, "w", strings.Replace(session, "b", "c", 1), kernel); got != "one two three " {
		t.Errorf("the output of a session whose kernel is known is %q", got)
	}
	if got := text(t, l, "x", session); got != "" {
		t.Errorf("another workspace has %q", got)
	}
}

func TestAPartThatComesAgainIsKeptOnce(t *testing.T) {
	l, s := newLogs(func(o *Options) { o.WorkspaceBytes = 1 << 30 })
	p := Part{Log: kernel, Run: NewRun(time.Now(), sandbox), Number: 1}
	for range 3 {
		put(t, l, "w", p, "once")
	}
	if got := text(t, l, "w", kernel); got != "once" || len(s.Names("w", "")) != 2 {
		t.Errorf("%q is kept in %d objects", got, len(s.Names("w", "")))
	}
	if used := l.workspaces["w"].bytes; used != 2*leastCharge { // a name, too
		t.Errorf("it counts %d bytes", used)
	}
}

func TestWhatCannotBeAPartIsRefused(t *testing.T) {
	l, s := newLogs(nil)
	run := NewRun(time.Now(), sandbox)
	for _, p := range []Part{
		{Log: "x", Run: run, Number: 1},
		{Log: strings.ToUpper(kernel), Run: run, Number: 1},
		{Log: kernel, Run: "../../x", Number: 1},
		{Log: kernel, Run: run, Number: 1e9},
		{Log: kernel, Run: run, Number: 1, From: -1},
		{Log: kernel, Run: run, Number: 1, Begun: time.UnixMilli(-1)},
	} {
		if p.Begun.IsZero() {
			p.Begun = time.UnixMilli(0)
		}
		if err := l.Put(t.Context(), "w", p, nil, nil); err == nil {
			t.Errorf("%+v is kept", p)
		}
	}
	if len(s.Names("w", "")) > 0 {
		t.Errorf("%d objects are kept", len(s.Names("w", "")))
	}
}

func TestTextSaysWhereSomeIsMissing(t *testing.T) {
	l, s := newLogs(nil)
	run := NewRun(time.Now(), sandbox)
	put(t, l, "w", Part{Log: kernel, Run: run, Number: 3, From: 100}, "a\n")
	put(t, l, "w", Part{Log: kernel, Run: run, Number: 4, From: 102}, "b\n")
	put(t, l, "w", Part{Log: kernel, Run: run, Number: 5, From: 110}, "c\n")
	put(t, l, "w", Part{Log: kernel, Run: run, Number: 6, From: 112}, "not a file")
	put(t, l, "w", Part{Log: kernel, Run: run, Number: 7, From: 125}, "") // says what is missing at the end
	for _, name := range s.Names("w", "p/") {
		if strings.Contains(name, "-00000006-") {
			s.Change("w", name, []byte("garbage"))
		}
	}
	missing := func(n int) string { return fmt.Sprintf("\n[%d bytes of output are missing here]\n", n) }
	want := missing(100) + "a\nb\n" + missing(6) + "c\n" + missing(10) + missing(3)
	if got := text(t, l, "w", kernel); got != want {
		t.Errorf("the text is %q, want %q", got, want)
	}
	parts, err := l.Parts(t.Context(), "w", kernel)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range s.Names("w", "p/") {
		if strings.Contains(name, "-00000004-") {
			s.Change("w", name, nil) // by a sweep meanwhile
		}
	}
	var b strings.Builder
	if err := l.WriteText(t.Context(), &b, "w", parts); err != nil || b.String() != missing(100)+"a\n"+missing(2)+missing(6)+"c\n"+missing(10)+missing(3) {
		t.Errorf("the text is %q, %v", b.String(), err)
	}
}

func TestAPartHoldsNoMoreTextThanItSays(t *testing.T) {
	var b strings.Builder
	if short, err := unpack(&b, bytes.NewReader(packed(t, strings.Repeat("0", 1<<20))), 10); short != 0 || err != nil || b.Len() != 10 {
		t.Errorf("%d bytes came, %d short, %v", b.Len(), short, err)
	}
}

func TestAStorageThatFailsIsAnError(t *testing.T) {
	l, s := newLogs(func(o *Options) { o.WorkspaceBytes = 1 << 30 })
	p := Part{Log: kernel, Run: NewRun(time.Now(), sandbox), Number: 1}
	put(t, l, "w", p, "x")
	parts, err := l.Parts(t.Context(), "w", kernel)
	if err != nil {
		t.Fatal(err)
	}
	s.Fail = errors.New("no storage")
	p.Number, p.Begun = 2, time.UnixMilli(0)
	_, listed := l.Parts(t.Context(), "w", kernel)
	for what, err := range map[string]error{
		"put": l.Put(t.Context(), "w", p, nil, nil), "list": listed, "read": l.WriteText(t.Context(), io.Discard, "w", parts), "sweep": l.Sweep(t.Context()),
	} {
		if !errors.Is(err, s.Fail) {
			t.Errorf("%s: %v", what, err)
		}
	}
	s.Fail = nil
	put(t, l, "w", p, "x")
}

func TestOldOutputIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, s := newLogs(nil)
		run := NewRun(time.Now(), sandbox)
		put(t, l, "w", Part{Log: kernel, Run: run, Number: 1}, "old ")
		put(t, l, "w", Part{Log: other, Run: run, Number: 1}, "older")
		time.Sleep(23 * time.Hour)
		put(t, l, "w", Part{Log: kernel, Run: run, Number: 2, From: 4}, "new")
		ctx, stop := context.WithCancel(t.Context())
		ran := make(chan error)
		go func() { ran <- l.Run(ctx) }()
		time.Sleep(3 * time.Hour)
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
		if got := text(t, l, "w", session); got != "\n[4 bytes of output are missing here]\nnew" {
			t.Errorf("what is kept is %q", got)
		}
		if len(s.Names("w", "")) != 2 {
			t.Errorf("%d objects are kept, want a part and a name", len(s.Names("w", "")))
		}
		// A name that was removed is there again with the next part.
		put(t, l, "w", Part{Log: other, Run: run, Number: 2, From: 5}, "again")
		if got := text(t, l, "w", session); !strings.Contains(got, "again") {
			t.Errorf("what is kept is %q", got)
		}
	})
}

func TestAFullLogGivesUpTheOldestOfTheLargest(t *testing.T) {
	const most = 20 * leastCharge
	l, s := newLogs(func(o *Options) { o.WorkspaceBytes = most })
	run := NewRun(time.Now(), sandbox)
	put(t, l, "w", Part{Log: other, Run: run, Number: 1}, "small")
	for i := range int64(100) {
		put(t, l, "w", Part{Log: kernel, Run: run, Number: 1 + i, From: i}, "x")
		if used := int64(len(s.Names("w", ""))) * leastCharge; used > most {
			t.Fatalf("%d bytes are kept, of %d", used, most)
		}
	}
	if got := text(t, l, "w", other); got != "small" {
		t.Errorf("the other log is %q", got)
	}
	parts, err := l.Parts(t.Context(), "w", kernel)
	if err != nil || len(parts) < 13 || parts[len(parts)-1].Number != 100 || parts[0].Number != 100-int64(len(parts))+1 {
		t.Errorf("%d parts are kept, %v", len(parts), err)
	}
	// Whoever starts later counts first.
	l = New(l.o)
	for i := range int64(20) {
		put(t, l, "w", Part{Log: kernel, Run: run, Number: 101 + i, From: 100 + i}, "x")
	}
	if used := int64(len(s.Names("w", ""))) * leastCharge; used > most {
		t.Errorf("%d bytes are kept, of %d", used, most)
	}
}

// Small parts, as one makes who follows a log for a week, cost older output nothing.
func TestSmallPartsDoNotDriveOutLargeOnes(t *testing.T) {
	l, _ := newLogs(func(o *Options) { o.WorkspaceBytes = 1 << 30 })
	run, week := NewRun(time.Now(), sandbox), int64(7*24*60*2)
	put(t, l, "w", Part{Log: kernel, Run: run, Number: 1}, "large")
	for i := range week {
		p := Part{Log: kernel, Run: run, Number: 2 + i, Begun: time.UnixMilli(0)}
		if err := l.Put(t.Context(), "w", p, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	parts, err := l.Parts(t.Context(), "w", kernel)
	if err != nil || int64(len(parts)) != week+1 {
		t.Errorf("%d parts are kept of %d, %v", len(parts), week+1, err)
	}
}

// sessionIDs returns so many ids of sessions.
func sessionIDs(from, n int) (ids []string) {
	for i := range n {
		ids = append(ids, fmt.Sprintf("cccccccc-0000-4000-8000-%012d", from+i))
	}
	return ids
}

// One who makes session after session of a kernel that prints fills nothing with them.
func TestALogIsFoundByABoundedNumberOfSessions(t *testing.T) {
	l, s := newLogs(func(o *Options) { o.WorkspaceBytes = 1 << 30 })
	run, number, before := NewRun(time.Now(), sandbox), int64(0), 0
	put := func(sessions []string) {
		t.Helper()
		number++
		p := Part{Log: kernel, Run: run, Number: number, Begun: time.UnixMilli(0)}
		if err := l.Put(t.Context(), "w", p, nil, sessions); err != nil {
			t.Fatal(err)
		}
		names := len(s.Names("w", namesPrefix))
		if names > before+putNewNames {
			t.Fatalf("%d names are written at once", names-before)
		}
		before = names
	}
	for i := range 100 {
		put(sessionIDs(10*i, 10))
		if before > 2*maxNames {
			t.Fatalf("%d names are kept", before)
		}
	}
	for range 10 {
		put(sessionIDs(2000, 2000))
	}
	if names := s.Names("w", nameOf(sessionIDs(2000+putNames-1, 1)[0], kernel)); len(names) != 1 {
		t.Errorf("the last of those that count has %d names", len(names))
	}
	if err := l.Sweep(t.Context()); err != nil || len(s.Names("w", namesPrefix)) > maxNames {
		t.Errorf("after a sweep %d names are kept, %v", len(s.Names("w", namesPrefix)), err)
	}
	if used := l.workspaces["w"].bytes; used != int64(len(s.Names("w", "")))*leastCharge {
		t.Errorf("%d objects count %d bytes", len(s.Names("w", "")), used)
	}
}

// What is removed is removed with its names, and names count.
func TestNamesOfLogsThatAreGoneFillNothing(t *testing.T) {
	const most = 64 * leastCharge
	l, s := newLogs(func(o *Options) { o.WorkspaceBytes = most })
	run := NewRun(time.Now(), sandbox)
	log := func(i int) string { return fmt.Sprintf("dddddddd-0000-4000-8000-%012d", i) }
	for i := range 100 {
		p := Part{Log: log(i), Run: run, Number: 1, Begun: time.UnixMilli(0)}
		if err := l.Put(t.Context(), "w", p, nil, sessionIDs(10*i, 10)); err != nil {
			t.Fatal(err)
		}
		if used := int64(len(s.Names("w", ""))) * leastCharge; used > most {
			t.Fatalf("%d bytes are kept, of %d", used, most)
		}
		if parts, err := l.Parts(t.Context(), "w", sessionIDs(10*i, 1)[0]); err != nil || len(parts) != 1 {
			t.Fatalf("what was put last has %d parts, %v", len(parts), err)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(packed(f, "text"), int64(4))
	f.Add(packed(f, "text")[:10], int64(4))
	f.Add([]byte("garbage"), int64(1))
	f.Fuzz(func(t *testing.T, content []byte, size int64) {
		size = size & (1<<20 - 1)
		var b bytes.Buffer
		short, err := unpack(&b, bytes.NewReader(content), size)
		if err != nil || short < 0 || int64(b.Len())+short != size {
			t.Errorf("%d bytes came, %d short of %d, %v", b.Len(), short, size, err)
		}
	})
}

func FuzzPartName(f *testing.F) {
	f.Add(Part{Log: kernel, Run: NewRun(time.UnixMilli(0), sandbox), Number: 1, Begun: time.UnixMilli(0)}.key())
	f.Add("p/x/y")
	f.Fuzz(func(t *testing.T, key string) {
		if p, ok := parsePart(key, 1); ok && (p.key() != key || p.From < 0 || p.Bytes < 0 || p.Number < 0) {
			t.Errorf("%q is %+v", key, p)
		}
	})
}
