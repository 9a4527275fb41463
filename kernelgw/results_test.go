package kernelgw

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"kernelgw/sandboxes/agentapi"
)

// The memory of all results together is bounded: who wants more waits, and is
// told to come back; who leaves makes room.
func TestLargeResultsOfAllUsersShareMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newResults()
		var held []*result
		for i := range 8 {
			h, err := r.enter(t.Context(), string(rune('a'+i)))
			if err != nil {
				t.Fatal(err)
			}
			if err := h.room(t.Context(), agentapi.MaxOutputBytes); err != nil {
				t.Fatalf("result %d: %v", i, err)
			}
			held = append(held, h)
		}
		for _, h := range held[:2] {
			if err := h.room(t.Context(), 2*agentapi.MaxOutputBytes); !errors.Is(err, errManyResults) {
				t.Errorf("more than a user may: %v", err)
			}
		}
		last, err := r.enter(t.Context(), "z")
		if err != nil {
			t.Fatal(err)
		}
		if err := last.room(t.Context(), 1); !errors.Is(err, errNoRoom) {
			t.Errorf("one byte more: %v", err)
		}
		got := make(chan error)
		go func() { got <- last.room(context.Background(), agentapi.MaxOutputBytes) }()
		synctest.Wait()
		held[0].leave()
		if err := <-got; err != nil {
			t.Errorf("after one has left: %v", err)
		}
		for _, h := range append(held[1:], last) {
			h.leave()
		}
		if !r.memory.TryAcquire(maxResultBytes) || len(r.byUser) != 0 {
			t.Errorf("not all is given back: %d users", len(r.byUser))
		}
	})
}

func FuzzQuotedOutputs(f *testing.F) {
	f.Add("[\"<é\\n\u2028\"]", uint16(3))
	f.Add("\x01\xff\xc3", uint16(1))
	f.Fuzz(func(t *testing.T, text string, times uint16) {
		text = strings.Repeat(text, int(times))
		if len(text) > 1<<20 {
			t.Skip()
		}
		text = strings.ToValidUTF8(text, "")
		var b bytes.Buffer
		if err := writeQuoted(&b, []byte(text)); err != nil {
			t.Fatal(err)
		}
		var got string
		if err := json.Unmarshal(b.Bytes(), &got); err != nil || got != text {
			t.Errorf("%.200q became %.200q: %v", text, b.String(), err)
		}
	})
}
