package eventlog

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
)

// model is a log without a budget: it remembers everything, and so knows what
// every reader should have got or lost.
type model struct {
	t       *testing.T
	log     *Log[int]
	budget  int64
	entries []Entry[int]
	readers []*reader
}

type reader struct {
	name   string
	cursor Cursor
	joined uint64 // it wants what came after
	got    map[uint64]bool
	newest uint64
	lost   Lost
}

func newModel(t *testing.T, budget int64) *model {
	return &model{t: t, log: New[int](budget), budget: budget}
}

func (m *model) append(e Entry[int]) {
	e.Value = len(m.entries)
	e.Seq = m.log.Append(e)
	if want := uint64(len(m.entries) + 1); e.Seq != want {
		m.t.Fatalf("Append gave number %d, want %d", e.Seq, want)
	}
	m.entries = append(m.entries, e)
	stats := m.log.Stats()
	if stats.Bytes > m.budget && stats.Entries > 1 {
		m.t.Fatalf("the log holds %d bytes in %d entries, budget %d", stats.Bytes, stats.Entries, m.budget)
	}
	if stats.Entries == 0 {
		m.t.Fatal("the newest entry left at its own append")
	}
}

func (m *model) join(name string) {
	m.readers = append(m.readers, &reader{name: name, cursor: m.log.Now(name), joined: uint64(len(m.entries)), got: make(map[uint64]bool)})
}

func (m *model) read(r *reader, maxCost int) {
	before := r.cursor.Seq()
	for _, item := range m.log.Read(&r.cursor, r.name, 1<<30, maxCost, nil) {
		if item.Lost.Messages > 0 {
			r.lost.Messages += item.Lost.Messages
			r.lost.Bytes += item.Lost.Bytes
		}
		if item.Entry.Seq == 0 {
			continue
		}
		want := m.entries[item.Entry.Seq-1]
		if item.Entry.Value != want.Value || item.Entry.To != want.To {
			m.t.Fatalf("entry %d came back as another", want.Seq)
		}
		if want.To != "" && want.To != r.name {
			m.t.Fatalf("%s got entry %d, which is for %s", r.name, want.Seq, want.To)
		}
		if r.newest >= want.Seq {
			m.t.Fatalf("%s got entry %d after %d", r.name, want.Seq, r.newest)
		}
		r.newest = want.Seq
		r.got[want.Seq] = true
	}
	if r.cursor.Seq() < before {
		m.t.Fatalf("the cursor of %s went back", r.name)
	}
}

// settle reads everything and compares with what the model knows.
func (m *model) settle() {
	for _, r := range m.readers {
		m.read(r, 1<<40)
		var messages, size uint64
		for _, e := range m.entries[r.joined:] {
			if e.To != "" && e.To != r.name || r.got[e.Seq] {
				continue
			}
			messages++
			size += uint64(e.Bytes)
		}
		if r.lost.Messages != messages || r.lost.Bytes != size {
			m.t.Fatalf("%s was told of %d lost messages with %d bytes, lost %d with %d",
				r.name, r.lost.Messages, r.lost.Bytes, messages, size)
		}
	}
}

// step does one operation that b says.
func (m *model) step(b [4]byte) {
	switch b[0] % 8 {
	default:
		e := Entry[int]{Class: Class(b[1] % 3), Bytes: int(b[2]) * int(b[3]%16), Parent: []byte{'p', b[1] / 64}}
		e.Cost = e.Bytes + int(b[3])
		if e.Class == Kept && b[1]&8 != 0 {
			e.To = "r" + string('0'+b[1]/16%4)
		}
		e.Quiet = e.Class == Kept && b[1]&4 != 0
		m.append(e)
	case 6:
		if len(m.readers) < 8 {
			m.join(fmt.Sprintf("r%d", len(m.readers)))
		}
	case 7:
		if len(m.readers) > 0 {
			m.read(m.readers[int(b[1])%len(m.readers)], int(b[2])*64)
		}
	}
}

func TestReadersGetEveryEntryOrAreToldOfItsLoss(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		m := newModel(t, int64(rng.IntN(40000)))
		for range 100 + rng.IntN(2000) {
			var b [4]byte
			binary.LittleEndian.PutUint32(b[:], rng.Uint32())
			m.step(b)
		}
		m.settle()
	}
}

func FuzzLog(f *testing.F) {
	f.Add(uint16(1000), []byte("\x06\x00\x00\x00\x00\x00\xff\xff\x00\x01\xff\xff\x00\x02\xff\xff\x07\x00\x00\x00"))
	f.Add(uint16(0), []byte("\x00\x00\x01\x01\x00\x00\x01\x01\x06\x00\x00\x00\x00\x0a\x01\x01"))
	f.Fuzz(func(t *testing.T, budget uint16, ops []byte) {
		m := newModel(t, int64(budget))
		for len(ops) >= 4 {
			m.step([4]byte(ops))
			ops = ops[4:]
		}
		m.settle()
	})
}

func entry(class Class, cost int, parent string) Entry[int] {
	return Entry[int]{Class: class, Bytes: cost, Cost: cost - Overhead, Parent: []byte(parent)}
}

// shape is what a reader got: class initials, and (n parent) for a loss.
func shape(items []Item[int]) string {
	var s string
	for _, item := range items {
		if item.Lost.Messages > 0 {
			s += fmt.Sprintf("(%d %s)", item.Lost.Messages, item.Lost.Parent)
		}
		if item.Entry.Seq > 0 {
			s += string("sdk"[item.Entry.Class])
		}
	}
	return s
}

func TestSpillOrder(t *testing.T) {
	l := New[int](10_000)
	c := l.Now("")
	appendAll := func(classes string) {
		for _, b := range classes {
			l.Append(entry(map[rune]Class{'s': Stream, 'd': Display, 'k': Kept}[b], 1000, "p"))
		}
	}
	for _, step := range []struct{ add, want string }{
		{"sdksdksdks", "sdksdksdks"},
		{"k", "(1 p)dksdksdksk"},
		{"kkk", "(1 p)dk(1 p)dk(1 p)dk(1 p)kkkk"},
		{"kkk", "(2 p)k(2 p)k(2 p)k(1 p)kkkkkkk"},
	} {
		appendAll(step.add)
		again := c
		got := shape(l.Read(&again, "", 1<<30, 1<<30, nil))
		if got != step.want {
			t.Errorf("after %q a reader gets %s, want %s", step.add, got, step.want)
		}
	}
}

func TestLossIsReportedOnceAcrossQuietEntries(t *testing.T) {
	l := New[int](4000)
	c := l.Now("")
	quiet := entry(Kept, 500, "cell 1")
	quiet.Quiet = true
	for range 3 {
		l.Append(entry(Stream, 1000, "cell 1"))
		l.Append(quiet)
	}
	l.Append(entry(Kept, 1500, "cell 1"))
	if got, want := shape(l.Read(&c, "", 1<<30, 1<<30, nil)), "kk(2 cell 1)skk"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestLossIsReportedUnderTheParentOfItsFirstEntry(t *testing.T) {
	l := New[int](3000)
	for _, cell := range []string{"cell 1", "cell 2"} {
		for range 4 {
			l.Append(entry(Stream, 1000, cell))
		}
	}
	var start Cursor
	if got, want := shape(l.Read(&start, "", 1<<30, 1<<30, nil)), "(5 cell 1)sss"; got != want {
		t.Errorf("from the start: got %s, want %s", got, want)
	}
}

func TestEntryLargerThanTheBudgetIsKeptUntilTheNext(t *testing.T) {
	l := New[int](1000)
	c := l.Now("")
	l.Append(entry(Display, 5000, "p"))
	again := c
	if got := shape(l.Read(&again, "", 1<<30, 1<<30, nil)); got != "d" {
		t.Errorf("got %s, want the large entry", got)
	}
	l.Append(entry(Stream, 300, "p"))
	if got := shape(l.Read(&again, "", 1<<30, 1<<30, nil)); got != "s" {
		t.Errorf("a reader that had it gets %s, want the next entry only", got)
	}
	if got := shape(l.Read(&c, "", 1<<30, 1<<30, nil)); got != "(1 p)s" {
		t.Errorf("a reader that had not gets %s", got)
	}
	if stats := l.Stats(); stats.Bytes > 1000 {
		t.Errorf("%d bytes are kept of a budget of 1000", stats.Bytes)
	}
}

func TestCopiedCursorReadsAgain(t *testing.T) {
	l := New[int](1 << 20)
	c := l.Now("r")
	for range 3 {
		l.Append(entry(Kept, 400, ""))
	}
	acked := c
	first := shape(l.Read(&c, "r", 1<<30, 1<<30, nil))
	if second := shape(l.Read(&acked, "r", 1<<30, 1<<30, nil)); first != second || first != "kkk" {
		t.Errorf("read %s, then %s from the same place", first, second)
	}
}

func TestReadStopsAtMaxItems(t *testing.T) {
	l := New[int](1 << 20)
	c := l.Now("")
	for range 5 {
		l.Append(entry(Kept, 1000, ""))
	}
	for i, want := range []string{"kk", "kk", "k", ""} {
		if got := shape(l.Read(&c, "", 2, 1<<30, nil)); got != want {
			t.Errorf("read %d: got %q, want %q", i, got, want)
		}
	}
}

func TestReadStopsAtMaxCost(t *testing.T) {
	l := New[int](1 << 20)
	c := l.Now("")
	for range 10 {
		l.Append(entry(Kept, 1000, ""))
	}
	for i, want := range []string{"kkk", "kkk", "kkk", "k", ""} {
		if got := shape(l.Read(&c, "", 1<<30, 2500, nil)); got != want {
			t.Errorf("read %d: got %q, want %q", i, got, want)
		}
	}
}

// Append with and without spilling: 2 allocations at most, no growth with the
// number of entries.
func BenchmarkAppendSpilling(b *testing.B) {
	for _, budget := range []int64{1 << 16, 1 << 24} {
		b.Run(fmt.Sprint(budget), func(b *testing.B) {
			l := New[int](budget)
			b.ReportAllocs()
			parent := []byte(`{"msg_id":"1"}`)
			for i := range b.N {
				l.Append(Entry[int]{Class: Class(i % 3), Bytes: 100, Cost: 100, Parent: parent})
			}
		})
	}
}

func TestReaderThatWasForgottenLosesNoNonsense(t *testing.T) {
	l := New[int](1 << 20)
	c := l.Now("r")
	own := entry(Kept, 400, "")
	own.To = "r"
	l.Append(own)
	l.Read(&c, "r", 1<<30, 1<<30, nil)
	l.Forget("r")
	l.Append(entry(Kept, 400, ""))
	if got := shape(l.Read(&c, "r", 1<<30, 1<<30, nil)); got != "k" {
		t.Errorf("got %s, want the entry for everybody", got)
	}
}
