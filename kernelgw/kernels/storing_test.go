package kernels

import (
	"context"
	"errors"
	"testing"
)

func TestPartsThatComeWhileTheStorageIsBusyAreLetGo(t *testing.T) {
	p := newStorePlaces()
	now, cancel := context.WithCancel(t.Context())
	cancel()
	var leave []func()
	for range maxStoring {
		l, err := p.store(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		leave = append(leave, l)
	}
	if _, err := p.store(now, false); !errors.Is(err, context.Canceled) {
		t.Errorf("more are stored than there are places: %v", err)
	}
	for range maxLastStoring {
		l, err := p.store(t.Context(), true)
		if err != nil {
			t.Fatalf("what ends has no places of its own: %v", err)
		}
		leave = append(leave, l)
	}
	filled := 0
	for ; len(p.whole) < maxWhole; filled++ {
		p.whole <- struct{}{}
	}
	if _, err := p.store(t.Context(), false); !errors.Is(err, errStoringMuch) {
		t.Errorf("with as many in memory as may be: %v", err)
	}
	for _, l := range leave {
		l()
	}
	if len(p.writing)+len(p.lastWriting) != 0 || len(p.whole)+len(p.lastWhole) != filled {
		t.Errorf("%d places to store are left, and %d of %d in memory", len(p.writing)+len(p.lastWriting), len(p.whole)+len(p.lastWhole), filled)
	}
}
