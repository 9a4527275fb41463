package outputlog

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"kernelgw/sandboxes/agentapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newLog(t *testing.T, budget int64) (l *Log, changes *atomic.Int64) {
	changes = new(atomic.Int64)
	l = New(Options{Dir: t.TempDir(), Budget: budget, Changed: func() { changes.Add(1) }, Log: slog.New(slog.DiscardHandler)})
	return l, changes
}

// run runs a log until the test ends, or stop is called.
func run(t *testing.T, l *Log) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		if err := l.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = func() {
		cancel()
		<-l.over
	}
	t.Cleanup(func() {
		stop()
		if _, _, ok := l.Oldest(); ok || l.Parts() != 0 || l.Open() {
			t.Error("a log that has ended has something")
		}
		if left, _ := filepath.Glob(filepath.Join(l.spool.place, "*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	return stop
}

func say(t *testing.T, l *Log, text string) {
	t.Helper()
	raw := quoted(t, text)
	l.Text(raw, len(raw), time.Now())
}

func seal(t *testing.T, l *Log) {
	t.Helper()
	if err := l.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// settle waits until all that was noted is worked off.
func settle(l *Log) {
	for l.Busy() {
		time.Sleep(time.Millisecond)
	}
}

func quoted(t *testing.T, text string) []byte {
	t.Helper()
	raw, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// unpack returns the text of a part, having checked what is told of it.
func unpack(t *testing.T, p agentapi.OutputLogPart, content []byte) []byte {
	t.Helper()
	if err := p.Check(); err != nil || p.Size != int64(len(content)) {
		t.Fatalf("part %+v of %d bytes: %v", p, len(content), err)
	}
	r, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil || int64(len(text)) != p.Bytes {
		t.Fatalf("part %+v holds %d bytes of text: %v", p, len(text), err)
	}
	return text
}

// drain takes all parts, in order.
func drain(t *testing.T, l *Log) (text []byte, parts []agentapi.OutputLogPart) {
	t.Helper()
	for {
		p, content, ok := l.Oldest()
		if !ok {
			return text, parts
		}
		text = append(text, unpack(t, p, content)...)
		parts = append(parts, p)
		if !l.Stored(p.Number) || l.Stored(p.Number) {
			t.Fatal("a part is there once")
		}
	}
}

func TestPartsHoldAllThatWasPrinted(t *testing.T) {
	l, changes := newLog(t, 1<<30)
	l.packer.full = 256 << 10
	run(t, l)
	random := rand.New(rand.NewPCG(1, 2))
	var want bytes.Buffer
	for i := range 200 {
		text := fmt.Sprintf("line %d äöü 🙂 \"\\\x1b[0m\n", i)
		noise := make([]byte, random.IntN(6_000))
		for i := range noise {
			noise[i] = byte(random.Uint32())
		}
		text += base64.StdEncoding.EncodeToString(noise)
		say(t, l, text)
		want.WriteString(text)
	}
	seal(t, l)
	seal(t, l) // of nothing, makes nothing
	text, parts := drain(t, l)
	if !bytes.Equal(text, want.Bytes()) {
		t.Errorf("%d bytes came of %d", len(text), want.Len())
	}
	at := int64(0)
	for i, p := range parts {
		if p.Number != int64(i+1) || p.From != at {
			t.Errorf("part %d is %+v, want it from %d", i+1, p, at)
		}
		at += p.Bytes
	}
	if len(parts) < 2 || changes.Load() != int64(2*len(parts)) {
		t.Errorf("%d parts and %d changes", len(parts), changes.Load())
	}
}

func TestTextThatCompressesWellMakesBoundedParts(t *testing.T) {
	l, _ := newLog(t, 1<<30)
	l.packer.most = 1 << 20
	run(t, l)
	raw := append(append([]byte{'"'}, bytes.Repeat([]byte("0"), 3<<20)...), '"')
	l.Text(raw, len(raw), time.Now())
	seal(t, l)
	text, parts := drain(t, l)
	if len(text) != 3<<20 || len(parts) != 4 {
		t.Errorf("%d bytes came in %d parts", len(text), len(parts))
	}
	for _, p := range parts {
		if p.Bytes > 1<<20 {
			t.Errorf("part %+v is of more than a megabyte", p)
		}
	}
}

func TestWhatHasNoRoomIsMissingAndSaysSo(t *testing.T) {
	l, _ := newLog(t, 1000)
	run(t, l)
	say(t, l, "first")
	seal(t, l)
	random := make([]byte, 4000)
	for i := range random {
		random[i] = byte('a' + rand.N(26))
	}
	say(t, l, string(random)) // 26 letters take five bits each
	seal(t, l)
	if l.Parts() != 1 {
		t.Fatalf("%d parts wait, want 1", l.Parts())
	}
	text, _ := drain(t, l)
	seal(t, l)
	gap, parts := drain(t, l)
	if string(text) != "first" || len(gap) != 0 || len(parts) != 1 || parts[0].From != int64(len("first")+len(random)) || parts[0].Number != 2 {
		t.Errorf("first %q, then %q in %+v", text, gap, parts)
	}
	say(t, l, "last")
	seal(t, l)
	if text, parts := drain(t, l); string(text) != "last" || parts[0].Number != 3 {
		t.Errorf("then %q in %+v", text, parts)
	}
}

func TestWhatNobodyHasIsMissingWhereItWas(t *testing.T) {
	l, _ := newLog(t, 1<<20)
	run(t, l)
	say(t, l, "before")
	l.Lose(100)
	say(t, l, "behind")
	l.Lose(1000)
	seal(t, l)
	text, parts := drain(t, l)
	if string(text) != "beforebehind" || len(parts) != 3 || parts[1].From != 106 || parts[2].From != 1112 || parts[2].Bytes != 0 {
		t.Errorf("%q came in %+v", text, parts)
	}
}

func TestADiskThatFailsLosesTextAndNothingElse(t *testing.T) {
	l, _ := newLog(t, 1<<20)
	run(t, l)
	say(t, l, "one")
	seal(t, l)
	say(t, l, "two")
	seal(t, l)
	l.spool.mu.Lock()
	dir := l.spool.dir
	l.spool.mu.Unlock()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if p, _, ok := l.Oldest(); ok || l.Parts() != 0 {
		t.Errorf("there is part %+v", p)
	}
	say(t, l, "three")
	seal(t, l) // its directory is gone
	if l.Parts() != 0 {
		t.Error("a part was kept nowhere")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	say(t, l, "four")
	seal(t, l)
	if text, parts := drain(t, l); string(text) != "four" || parts[0].From != int64(len("onetwothree")) {
		t.Errorf("%q came in %+v", text, parts)
	}
}

func TestOldTextMakesAPart(t *testing.T) {
	l, _ := newLog(t, 1<<20)
	run(t, l)
	now := time.Now()
	l.SealOld(now)
	l.Text(quoted(t, "x"), 3, now)
	l.SealOld(now.Add(partAge - 1))
	if settle(l); l.Parts() != 0 {
		t.Error("young text made a part")
	}
	l.SealOld(now.Add(partAge))
	if settle(l); l.Parts() != 1 {
		t.Error("old text made no part")
	}
}

func TestNothingIsTakenAfterTheEnd(t *testing.T) {
	l, _ := newLog(t, 1<<20)
	stop := run(t, l)
	say(t, l, "x")
	seal(t, l)
	say(t, l, "y")
	stop()
	say(t, l, "z")
	l.Lose(1)
	if err := l.Seal(t.Context()); !errors.Is(err, errOver) {
		t.Errorf("a part of what is after the end: %v", err)
	}
}

func TestTextIsTakenWithoutWaitingAndWhatHasNoRoomIsAGap(t *testing.T) {
	const most = 512 << 10
	l, _ := newLog(t, 1<<30)
	l.queue.most = most
	waiting := func() int64 {
		l.queue.mu.Lock()
		defer l.queue.mu.Unlock()
		return l.queue.bytes
	}
	// Nobody compresses: it takes for ever.
	var want []byte
	all, held := int64(0), int64(0)
	note := func(size int) {
		line := fmt.Sprintf("line %d äöü \"\\\x1b[0m 🙂 ", all)
		s := line + strings.Repeat("x", size)
		if waiting() < most {
			want = append(want, s...)
		}
		say(t, l, s)
		all += int64(len(s))
		held = max(held, waiting())
	}
	for range 2 * most / 4096 {
		note(100)
		note(8000)
	}
	note(3 * most)
	l.SealOld(time.Now())
	note(7)
	if held > most+9000 || len(want) < most*9/10 {
		t.Errorf("%d bytes wait, %d of them text", held, len(want))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Seal(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a part of what is not compressed: %v", err)
	}
	run(t, l)
	seal(t, l)
	note(3 * most) // what is in nobody's way is taken whatever its size
	l.Lose(5)
	seal(t, l)
	got, parts := drain(t, l)
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes came, want %d", len(got), len(want))
	}
	missing, at, last := int64(0), int64(0), agentapi.OutputLogPart{}
	for _, p := range parts {
		missing += p.From - at
		at, last = p.From+p.Bytes, p
	}
	if at != all+5 || int64(len(got))+missing != at || last.From != at {
		t.Errorf("%d bytes came and %d are missing, of %d; the last part is %+v", len(got), missing, all, last)
	}
}

func TestMuchSmallTextWaitsInBoundedMemory(t *testing.T) {
	l, _ := newLog(t, 1<<30)
	raw := quoted(t, "x")
	for range 2 * queueBytes / itemBytes {
		l.Text(raw, 1<<20, time.Time{})
	}
	l.Text(quoted(t, strings.Repeat("y", copied)), 1<<20, time.Time{})
	if n := int64(len(l.queue.items)); n < queueBytes/itemBytes/2 || n > queueBytes/itemBytes+1 {
		t.Errorf("%d items wait", n)
	}
	large, _ := newLog(t, 1<<30)
	for range 100 {
		large.Text(quoted(t, strings.Repeat("y", copied)), 1<<20, time.Time{}) // in a message that is larger
	}
	if n := len(large.queue.items); n != queueBytes>>20+1 {
		t.Errorf("%d items of a megabyte wait", n)
	}
}

func TestAFileThatIsNotTheOneThatWasWrittenIsMissing(t *testing.T) {
	for what, replace := range map[string]func(name string) error{
		"a pipe":      func(name string) error { return unix.Mkfifo(name, 0o600) },
		"a directory": func(name string) error { return os.Mkdir(name, 0o700) },
		"a link":      func(name string) error { return os.Symlink("/dev/zero", name) },
		"shorter":     func(name string) error { return os.WriteFile(name, []byte("x"), 0o600) },
	} {
		t.Run(what, func(t *testing.T) {
			l, _ := newLog(t, 1<<20)
			run(t, l)
			say(t, l, "one")
			seal(t, l)
			l.spool.mu.Lock()
			first, second := l.spool.file(1), l.spool.file(2)
			l.spool.mu.Unlock()
			if err := errors.Join(os.Remove(first), replace(first), replace(second)); err != nil {
				t.Fatal(err)
			}
			say(t, l, "two")
			seal(t, l)
			say(t, l, "three")
			seal(t, l)
			if got, parts := drain(t, l); string(got) != "three" || parts[0].From != 6 {
				t.Errorf("%q came in %+v", got, parts)
			}
		})
	}
}

func FuzzUnescape(f *testing.F) {
	for _, s := range []string{`"a\nb"`, `"\ud83d\ude00 \ud83d x \ude00"`, `"\u00e4\/\"\\"`, `"\u12`, `"\x"`, `"`, ``, `"a"b"`, `"a\"b\"\"c"`, "\"\xff\"", `"äöü"`} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, raw []byte, size int) {
		size = 1 + size&0xff
		var u unescaper
		var got []byte
		u.each(raw, size, func(text []byte) {
			if len(text) > 2*size+4 {
				t.Errorf("a piece of %d bytes, size %d", len(text), size)
			}
			got = append(got, text...)
		})
		if n := textSize(raw); n != int64(len(got)) {
			t.Errorf("%q is %d bytes of text, and is said to be %d", raw, len(got), n)
		}
		var want string
		if json.Unmarshal(raw, &want) == nil && len(raw) > 0 && raw[0] == '"' {
			// Invalid UTF-8 is left as it came.
			if string(bytes.ToValidUTF8(got, []byte("\uFFFD"))) != string(bytes.ToValidUTF8([]byte(want), []byte("\uFFFD"))) && bytes.Equal(raw, bytes.ToValidUTF8(raw, nil)) {
				t.Errorf("%q became %q, want %q", raw, got, want)
			}
		}
	})
}

// BenchmarkText is what noting a text costs who notes it, and beside them what
// compressing it does. The first must stay far above the second.
func BenchmarkText(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 2))
	for what, line := range map[string]func(i int) string{
		"lines":   func(i int) string { return fmt.Sprintf("%06d and some more of a line\n", i) },
		"floats":  func(int) string { return fmt.Sprintln(random.Float64()) },
		"colours": func(i int) string { return fmt.Sprintf("\x1b[3%dmred\x1b[0m\n", i%8) },
		"quotes":  func(int) string { return `"""""""""""""` },
	} {
		var text strings.Builder
		for i := range 10_000 {
			text.WriteString(line(i))
		}
		raw, err := json.Marshal(text.String())
		if err != nil {
			b.Fatal(err)
		}
		l := New(Options{Dir: b.TempDir(), Changed: func() {}, Log: slog.New(slog.DiscardHandler)})
		b.Run("note/"+what, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				l.Text(raw, len(raw), time.Time{})
			}
		})
		b.Run("compress/"+what, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				l.packer.text(raw, time.Time{})
			}
		})
	}
}
