package delivery

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"kernelgw/jupyter"
	"kernelgw/jupyter/jupytertest"
)

// tale is a transcript of two cells of session "me" and one of session "other".
func tale() (said []jupytertest.Said) {
	say := func(channel jupyter.Channel, session, cell, kind string) {
		n := len(said) + 1
		said = append(said, jupytertest.Said{
			Channel: channel, ID: fmt.Sprint("kernel_", n), Type: kind, ParentID: cell, Session: session, Size: 100 + n, Sum: uint64(n),
		})
	}
	for _, cell := range []struct{ session, id string }{{"me", "a"}, {"other", "b"}, {"me", "c"}} {
		say(jupyter.IOPub, cell.session, cell.id, "status")
		for range 4 {
			say(jupyter.IOPub, cell.session, cell.id, "stream")
		}
		say(jupyter.IOPub, cell.session, cell.id, "display_data")
		say(jupyter.Shell, cell.session, cell.id, "execute_reply")
		say(jupyter.IOPub, cell.session, cell.id, "status")
	}
	return said
}

// got are the arrivals of messages by their numbers in the tale; 0 is a ping, and
// less than that a marker of so many lost messages, whose bytes follow.
func got(numbers ...int) (all []arrival) {
	said := tale()
	for i := 0; i < len(numbers); i++ {
		switch n := numbers[i]; {
		case n > 0:
			s := said[n-1]
			all = append(all, arrival{channel: s.Channel, id: s.ID, kind: s.Type, parent: s.ParentID, sum: s.Sum})
		case n == 0:
			all = append(all, arrival{ping: true})
		default:
			i++
			all = append(all, arrival{channel: jupyter.IOPub, kind: "stream", lost: &loss{-n, numbers[i]}})
		}
	}
	return all
}

func span(from, to int) (numbers []int) {
	for n := from; n <= to; n++ {
		if n != 15 { // the reply of the other
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// The model says yes to what the contract allows, and no to each breach of it.
func TestModelKnowsTheContract(t *testing.T) {
	join := func(parts ...[]int) []arrival { return got(slices.Concat(parts...)...) }
	one := func(all []arrival) []leg { return []leg{{arrivals: all}} }
	wrong := got(span(1, 24)...)
	wrong[5].sum++
	for name, c := range map[string]struct {
		conns []leg
		want  string // a part of the problem; "" for none
	}{
		"everything once":      {one(join(span(1, 24))), ""},
		"a message is missing": {one(join(span(1, 10), span(12, 24))), "missing"},
		"the first is missing": {one(join(span(2, 24))), "missing"},
		"two are swapped":      {one(join(span(1, 9), []int{11, 10}, span(12, 24))), "missing"},
		"one comes twice":      {one(join(span(1, 10), span(10, 24))), "after"},
		"it is another":        {one(wrong), "not what the kernel sent"},
		"the reply of another": {one(join(span(1, 14), []int{15}, span(16, 24))), "not for this session"},
		"a reply is missing":   {one(join(span(1, 6), span(8, 24))), "never came"},

		"a loss is told":                        {one(join(span(1, 9), []int{-2, 221}, span(12, 24))), ""},
		"a loss is told after the next message": {one(join(span(1, 9), span(12, 12), []int{-2, 221}, span(13, 24))), "missing"},
		"too little loss is told":               {one(join(span(1, 9), []int{-1, 221}, span(12, 24))), "markers tell"},
		"too few bytes are told":                {one(join(span(1, 9), []int{-2, 220}, span(12, 24))), "markers tell"},
		"a loss is told that is none":           {one(join(span(1, 9), []int{-1, 110}, span(10, 24))), "markers tell"},
		"a picture is lost before streams":      {one(join(span(1, 13), []int{-1, 114}, span(16, 24))), "streams must go first"},

		"a cut behind everything":                         {[]leg{{arrivals: join(span(1, 10), []int{0})}, {arrivals: join(span(11, 24))}}, ""},
		"what was in flight comes again":                  {[]leg{{arrivals: join(span(1, 4), []int{0}, span(5, 10))}, {arrivals: join(span(5, 24))}}, ""},
		"what may have been acknowledged comes again":     {[]leg{{arrivals: join(span(1, 4), []int{0}, span(5, 10))}, {arrivals: join(span(1, 24))}}, ""},
		"a replay goes on where nothing was acknowledged": {[]leg{{arrivals: join(span(1, 4), []int{0}, span(5, 10))}, {arrivals: join(span(8, 24))}}, "missing"},
		"a replay has a hole":                             {[]leg{{arrivals: join(span(1, 4), []int{0}, span(5, 10))}, {arrivals: join(span(5, 6), span(9, 24))}}, "missing"},
		"a replay begins one too late":                    {[]leg{{arrivals: join(span(1, 10), []int{0})}, {arrivals: join(span(12, 24))}}, "missing"},
		"what was certainly acknowledged comes again": {
			[]leg{{arrivals: join(span(1, 8), []int{0}, span(9, 18)), asked: map[string]int{"c": 1}}, {arrivals: join(span(5, 24))}}, "comes again",
		},
		"what was acknowledged comes again after a drain": {
			[]leg{{arrivals: join(span(1, 8), []int{0}), end: drained}, {arrivals: join(span(8, 24))}}, "comes again",
		},
		"a loss in a replay is told": {[]leg{{arrivals: join(span(1, 4), []int{0}, span(5, 10))}, {arrivals: join([]int{-1, 105}, span(6, 24))}}, ""},
		"a loss before a cut is told once": {
			[]leg{{arrivals: join(span(1, 9), []int{-2, 221}, span(12, 14), []int{0})}, {arrivals: join([]int{-2, 221}, span(16, 24))}}, "markers tell",
		},
	} {
		m := newModel(tale(), map[string]bool{"me": true, "other": true}, 1<<20)
		problem := m.check(history{session: "me", first: "a", last: "c", conns: c.conns})
		if c.want == "" && problem != "" || !strings.Contains(problem, c.want) {
			t.Errorf("%s: the model says %q, want %q", name, problem, c.want)
		}
	}
	// A session that came when message 14 was known, and asked for cell c.
	m := newModel(tale(), map[string]bool{"me": true, "other": true}, 1<<20)
	for name, c := range map[string]struct {
		from int
		want string
	}{
		"from when it came": {16, ""}, "from its own request": {17, ""}, "after its own request": {18, "missing"}, "a replay to a new session": {13, "comes again"},
	} {
		problem := m.check(history{session: "me", first: "c", conns: []leg{{floor: 14, arrivals: join(span(c.from, 24))}}})
		if c.want == "" && problem != "" || !strings.Contains(problem, c.want) {
			t.Errorf("%s: the model says %q, want %q", name, problem, c.want)
		}
	}
}
