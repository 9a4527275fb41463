package outputlog

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"kernelgw/sandboxes/agentapi"
)

func newLog(t *testing.T, budget int64) (l *Log, changes *int) {
	changes = new(int)
	l = New(Options{Dir: t.TempDir(), Budget: budget, Changed: func() { *changes++ }, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if left, _ := filepath.Glob(filepath.Join(l.o.Dir, "*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	return l, changes
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
	l.full = 256 << 10
	random := rand.New(rand.NewPCG(1, 2))
	var want bytes.Buffer
	for i := range 200 {
		text := fmt.Sprintf("line %d äöü 🙂 \"\\\x1b[0m\n", i)
		noise := make([]byte, random.IntN(6_000))
		for i := range noise {
			noise[i] = byte(random.Uint32())
		}
		text += base64.StdEncoding.EncodeToString(noise)
		l.Text(quoted(t, text), time.Now())
		want.WriteString(text)
	}
	l.Seal(time.Now())
	l.Seal(time.Now()) // of nothing, makes nothing
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
	if len(parts) < 2 || *changes != 2*len(parts) {
		t.Errorf("%d parts and %d changes", len(parts), *changes)
	}
}

func TestTextThatCompressesWellMakesBoundedParts(t *testing.T) {
	l, _ := newLog(t, 1<<30)
	l.most = 1 << 20
	raw := append(append([]byte{'"'}, bytes.Repeat([]byte("0"), 3<<20)...), '"')
	l.Text(raw, time.Now())
	l.Seal(time.Now())
	text, parts := drain(t, l)
	if len(text) != 3<<20 || len(parts) != 4 {
		t.Errorf("%d bytes came in %d parts", len(text), len(parts))
	}
	for _, p := range parts {
		if p.Bytes > l.most {
			t.Errorf("part %+v is of more than %d bytes", p, l.most)
		}
	}
}

func TestWhatHasNoRoomIsMissingAndSaysSo(t *testing.T) {
	l, _ := newLog(t, 1000)
	l.Text(quoted(t, "first"), time.Now())
	l.Seal(time.Now())
	random := make([]byte, 4000)
	for i := range random {
		random[i] = byte('a' + rand.N(26))
	}
	l.Text(quoted(t, string(random)), time.Now()) // 26 letters take five bits each
	l.Seal(time.Now())
	if l.Parts() != 1 {
		t.Fatalf("%d parts wait, want 1", l.Parts())
	}
	text, _ := drain(t, l)
	l.Seal(time.Now())
	gap, parts := drain(t, l)
	if string(text) != "first" || len(gap) != 0 || len(parts) != 1 || parts[0].From != int64(len("first")+len(random)) || parts[0].Number != 2 {
		t.Errorf("first %q, then %q in %+v", text, gap, parts)
	}
	l.Text(quoted(t, "last"), time.Now())
	l.Seal(time.Now())
	if text, parts := drain(t, l); string(text) != "last" || parts[0].Number != 3 {
		t.Errorf("then %q in %+v", text, parts)
	}
}

func TestWhatNobodyHasIsMissingWhereItWas(t *testing.T) {
	l, _ := newLog(t, 1<<20)
	l.Text(quoted(t, "before"), time.Now())
	l.Lose(100)
	l.Text(quoted(t, "behind"), time.Now())
	l.Lose(1000)
	l.Seal(time.Now())
	text, parts := drain(t, l)
	if string(text) != "beforebehind" || len(parts) != 3 || parts[1].From != 106 || parts[2].From != 1112 || parts[2].Bytes != 0 {
		t.Errorf("%q came in %+v", text, parts)
	}
}

func TestADiskThatFailsLosesTextAndNothingElse(t *testing.T) {
	l, _ := newLog(t, 1<<20)
	l.Text(quoted(t, "one"), time.Now())
	l.Seal(time.Now())
	l.Text(quoted(t, "two"), time.Now())
	l.Seal(time.Now())
	l.mu.Lock()
	dir := l.dir
	l.mu.Unlock()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if p, _, ok := l.Oldest(); ok || l.Parts() != 0 {
		t.Errorf("there is part %+v", p)
	}
	l.Text(quoted(t, "three"), time.Now())
	l.Seal(time.Now()) // its directory is gone
	if l.Parts() != 0 {
		t.Error("a part was kept nowhere")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l.Text(quoted(t, "four"), time.Now())
	l.Seal(time.Now())
	if text, parts := drain(t, l); string(text) != "four" || parts[0].From != int64(len("onetwothree")) {
		t.Errorf("%q came in %+v", text, parts)
	}
}

func TestOldTextMakesAPart(t *testing.T) {
	l, _ := newLog(t, 1<<20)
	now := time.Now()
	l.SealOld(now)
	l.Text(quoted(t, "x"), now)
	if l.SealOld(now.Add(partAge - 1)); l.Parts() != 0 {
		t.Error("young text made a part")
	}
	if l.SealOld(now.Add(partAge)); l.Parts() != 1 {
		t.Error("old text made no part")
	}
}

func TestNothingIsTakenAfterClose(t *testing.T) {
	l, _ := newLog(t, 1<<20)
	l.Text(quoted(t, "x"), time.Now())
	l.Seal(time.Now())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l.Text(quoted(t, "y"), time.Now())
	l.Seal(time.Now())
	if _, _, ok := l.Oldest(); ok || l.Parts() != 0 {
		t.Error("a closed log has parts")
	}
}

func FuzzUnescape(f *testing.F) {
	for _, s := range []string{`"a\nb"`, `"\ud83d\ude00 \ud83d x \ude00"`, `"\u00e4\/\"\\"`, `"\u12`, `"\x"`, `"`, ``, `"a"b"`, "\"\xff\"", `"äöü"`} {
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
		var want string
		if json.Unmarshal(raw, &want) == nil && len(raw) > 0 && raw[0] == '"' {
			// Invalid UTF-8 is left as it came.
			if string(bytes.ToValidUTF8(got, []byte("\uFFFD"))) != string(bytes.ToValidUTF8([]byte(want), []byte("\uFFFD"))) && bytes.Equal(raw, bytes.ToValidUTF8(raw, nil)) {
				t.Errorf("%q became %q, want %q", raw, got, want)
			}
		}
	})
}

func BenchmarkText(b *testing.B) {
	l := New(Options{Dir: b.TempDir(), Budget: 0, Changed: func() {}, Log: slog.New(slog.DiscardHandler)})
	defer l.Close()
	var text []byte
	for i := range 10_000 {
		text = fmt.Appendf(text, "%06d and some more of a line\\n", i)
	}
	raw := append(append([]byte{'"'}, text...), '"')
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		l.Text(raw, time.Time{})
	}
}
