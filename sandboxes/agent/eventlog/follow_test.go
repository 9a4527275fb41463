package eventlog

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"unsafe"
)

// follower follows a model's log for an audience, and breaks off at times.
type follower struct {
	audience Audience
	began    uint64
	at       Position
	newest   uint64
	got      map[uint64]bool
	lost     total
}

func (a Audience) has(e Entry[int]) bool {
	return a == Everything || (a == Public) == (e.To == "")
}

// follow reads one batch. keep says how many of its steps arrive: the follower
// goes on where the last one of these was.
func (m *model) follow(f *follower, maxSteps, maxCost, keep int) (arrived int) {
	p := f.at
	steps := m.log.Follow(&p, f.audience, maxSteps, maxCost, nil)
	if len(steps) > maxSteps {
		m.t.Fatalf("%d steps, want at most %d", len(steps), maxSteps)
	}
	if keep >= len(steps) {
		f.at = p
	}
	for _, step := range steps[:min(keep, len(steps))] {
		if step.At.Seq < f.newest {
			m.t.Fatalf("a step at %d follows one at %d", step.At.Seq, f.newest)
		}
		if keep < len(steps) {
			var ok bool
			if f.at, ok = ParsePosition(string(step.At.AppendText(nil))); !ok || f.at != step.At {
				m.t.Fatalf("%+v came back from its text as %+v", step.At, f.at)
			}
		}
		f.newest = step.At.Seq
		arrived++
		if step.Lost.Messages > 0 {
			if step.Entry.Seq != 0 {
				m.t.Fatal("a loss and an entry in one step")
			}
			f.lost = sum(f.lost, total{step.Lost.Messages, step.Lost.Bytes})
			continue
		}
		want := m.entries[step.Entry.Seq-1]
		if step.Entry.Value != want.Value || step.At.Seq != want.Seq || !f.audience.has(want) || f.got[want.Seq] {
			m.t.Fatalf("entry %d came as %+v, or again, or to the wrong audience", want.Seq, step)
		}
		f.got[want.Seq] = true
	}
	return arrived
}

// missing is what the follower did not get of what was for it.
func (m *model) missing(f *follower) total {
	var t total
	for _, e := range m.entries[f.began:] {
		if f.audience.has(e) && !f.got[e.Seq] {
			t = t.plus(e.Bytes)
		}
	}
	return t
}

func TestFollowersGetEveryEntryOnceOrAreToldOfItsLoss(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 2))
		m := newModel(t, int64(rng.IntN(40000)))
		var followers []*follower
		for range 100 + rng.IntN(1500) {
			switch n := rng.IntN(10); {
			case n < 7:
				m.appendRandom(rng)
			case n == 7 && len(followers) < 6:
				f := &follower{audience: Audience(rng.IntN(3)), got: make(map[uint64]bool)}
				f.at = m.log.End()
				f.began, f.newest = f.at.Seq, f.at.Seq
				followers = append(followers, f)
			case n > 7 && len(followers) > 0:
				m.follow(followers[rng.IntN(len(followers))], 1+rng.IntN(30), rng.IntN(10000), rng.IntN(20))
			}
		}
		for _, f := range followers {
			for m.follow(f, 1000, 1<<40, 1000) > 0 {
			}
			if want := m.missing(f); f.lost != want {
				t.Fatalf("seed %d: a follower of audience %d was told of %+v, lost %+v", seed, f.audience, f.lost, want)
			}
		}
	}
}

func (m *model) appendRandom(rng *rand.Rand) {
	e := Entry[int]{Class: Class(rng.IntN(3)), Bytes: rng.IntN(3000), Parent: []byte{'p', byte(rng.IntN(3))}}
	e.Cost = e.Bytes + rng.IntN(200)
	if e.Class == Kept && rng.IntN(2) == 0 {
		e.To = fmt.Sprint("r", rng.IntN(3))
	}
	m.append(e)
}

// Whoever has no more than a number gets the same entries, and is told of no
// less than what is lost; of exactly that when the entry of the number is kept.
func TestFollowersResumeFromAnyNumber(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 3))
		m := newModel(t, int64(rng.IntN(60000)))
		for range 50 + rng.IntN(150) {
			m.appendRandom(rng)
		}
		kept := map[uint64]bool{0: true}
		var start Position
		for _, step := range m.log.Follow(&start, Everything, 1000, 1<<40, nil) {
			if step.Entry.Seq != 0 {
				kept[step.Entry.Seq] = true
			}
		}
		last := uint64(len(m.entries))
		for seq := range last + 1 {
			for _, audience := range []Audience{Everything, Public, Addressed} {
				at, ok := m.log.At(seq)
				if !ok {
					t.Fatalf("there is no entry %d of %d", seq, last)
				}
				f := &follower{audience: audience, began: seq, newest: seq, at: at, got: make(map[uint64]bool)}
				m.follow(f, 1000, 1<<40, 1000)
				want := m.missing(f)
				exact := kept[seq] && f.lost != want
				few := f.lost.messages < want.messages || f.lost.bytes < want.bytes
				many := audience == Everything && f.lost.messages != want.messages
				if exact || few || many {
					t.Fatalf("seed %d: from %d (kept: %v) audience %d was told of %+v, lost %+v", seed, seq, kept[seq], audience, f.lost, want)
				}
			}
		}
		if _, ok := m.log.At(last + 1); ok {
			t.Fatalf("there is an entry %d of %d", last+1, last)
		}
	}
}

func TestFollowerIsToldOfALossWhereItIs(t *testing.T) {
	l := New[int](3000)
	for _, cell := range []string{"cell 1", "cell 2"} {
		l.Append(entry(Kept, 500, cell))
		for range 4 {
			l.Append(entry(Stream, 1000, cell))
		}
	}
	var p Position
	var got string
	for _, step := range l.Follow(&p, Everything, 100, 1<<30, nil) {
		if step.Lost.Messages > 0 {
			got += fmt.Sprintf("(%d %s to %d)", step.Lost.Messages, step.Lost.Parent, step.At.Seq)
		} else {
			got += fmt.Sprint("[", step.Entry.Seq, "]")
		}
	}
	if want := "[1](4 cell 1 to 5)[6](2 cell 2 to 8)[9][10]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestMadeUpPositionsHarmNobody(t *testing.T) {
	l := New[int](3000)
	for range 10 {
		l.Append(entry(Stream, 1000, "p"))
	}
	most := ^uint64(0)
	for _, p := range []Position{{}, {Seq: most}, {0, total{most, most}, total{most, most}}, {5, total{most, 0}, total{0, most}}, {9, total{}, total{}}} {
		for _, a := range []Audience{Everything, Public, Addressed} {
			at, want := p, 10-min(p.Seq, 10)
			var got uint64
			for _, step := range l.Follow(&at, a, 100, 1<<30, nil) {
				if step.Entry.Seq != 0 {
					got++
				}
			}
			if a != Addressed && got != min(want, 3) {
				t.Errorf("from %+v audience %d got %d entries, want %d", p, a, got, min(want, 3))
			}
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	for _, text := range []string{"0-0-0-0-0", "1-1-z-0-0", "1-1-1-1", "1-1-1-1-1-1", "-1-1-1-1-1", "3w5e11264sgsf-0-0-0-0", "3w5e11264sgsg-0-0-0-0", "+1-0-0-0-0", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, ok := ParsePosition(text)
		if !ok {
			return
		}
		if again, ok := ParsePosition(string(p.AppendText(nil))); !ok || again != p {
			t.Errorf("%q is %+v, and that as text is %+v", text, p, again)
		}
	})
}

// What the log needs for an entry beside its bytes is within what it counts.
func TestOverheadIsNoLie(t *testing.T) {
	type frame [8]uintptr // as large as the agent's
	if size := unsafe.Sizeof(slot[frame]{}); size > Overhead {
		t.Errorf("a slot has %d bytes, counted are %d", size, Overhead)
	}
}
