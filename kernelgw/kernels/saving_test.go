package kernels

import (
	"context"
	"testing"
	"time"
)

func TestAnOwnerTakesNoOthersPlacesToSave(t *testing.T) {
	p := newSavePlaces()
	now, cancel := context.WithCancel(t.Context())
	cancel()
	eve := saver{owner: "eve"}
	var leave []func()
	for range maxOwnerSaving {
		l, err := p.ask(t.Context(), eve)
		if err != nil {
			t.Fatal(err)
		}
		leave = append(leave, l)
	}
	if _, err := p.ask(now, eve); err == nil {
		t.Error("an owner has as many places as he likes")
	}
	for _, who := range []saver{{"ann", false}, {"ann", true}, {"eve", true}} {
		l, err := p.ask(t.Context(), who)
		if err != nil {
			t.Fatal(err)
		}
		leave = append(leave, l)
	}
	for _, l := range leave {
		l()
	}
	if len(p.byOwner) != 0 || len(p.asking)+len(p.lastAsking) != 0 {
		t.Errorf("%d owners, %d and %d places are left", len(p.byOwner), len(p.asking), len(p.lastAsking))
	}
}

func TestWhatEndsHasPlacesOfItsOwnToSave(t *testing.T) {
	p := newSavePlaces()
	now, cancel := context.WithCancel(t.Context())
	cancel()
	for range maxWriting {
		if _, err := p.write(t.Context(), false); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.write(now, false); err == nil {
		t.Error("more are written than there are places")
	}
	for range maxLastWriting {
		if _, err := p.write(t.Context(), true); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.write(now, true); err == nil {
		t.Error("more are written at the end than there are places")
	}
}

func TestHowOftenOutputsAreSaved(t *testing.T) {
	var p savePace
	start := time.Unix(1e9, 0)
	now, writes := start, 0
	for ; now.Sub(start) < time.Hour; writes++ { // an agent that always has something
		now = now.Add(p.next(now, 1, false))
	}
	if writes < 20 || writes > 100 {
		t.Errorf("%d saves in an hour", writes)
	}
	if got := p.next(now, 1, false); got != saveLast {
		t.Errorf("then it waits %v", got)
	}
	if got := p.next(now, 2, false); got != saveFirst {
		t.Errorf("when somebody came it waits %v", got)
	}
	for _, want := range []time.Duration{saveFirst, 2 * saveFirst, 4 * saveFirst} {
		if got := p.next(now, 2, true); got != want {
			t.Errorf("after a failure it waits %v, want %v", got, want)
		}
	}
	now = now.Add(time.Hour)
	if got := p.next(now, 2, true); got != saveFirst {
		t.Errorf("after a failure an hour later it waits %v", got)
	}
	if got := p.next(now, 2, false); got != saveFirst {
		t.Errorf("after a save an hour later it waits %v", got)
	}
}
