package kernels

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
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

func TestAnOwnerHasAPaceOfHisOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, began := newStorePlaces(), time.Now()
		waited := func(owner string) time.Duration {
			if err := p.waitPace(t.Context(), owner); err != nil {
				t.Fatal(err)
			}
			return time.Since(began)
		}
		for range 20 {
			p.spent("eve", 4<<20)
		}
		if took := waited("ann"); took != 0 {
			t.Errorf("another waits %v", took)
		}
		if took := waited("eve"); took < time.Second-time.Millisecond || took > time.Second+time.Millisecond {
			t.Errorf("after 80 MiB an owner waits %v", took)
		}
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		p.spent("eve", 32<<20)
		if err := p.waitPace(soon, "eve"); err == nil {
			t.Error("an owner in debt does not wait")
		}
		time.Sleep(time.Minute)
		for i := range 100 {
			waited(fmt.Sprint(i))
		}
		if len(p.paces) > 1 {
			t.Errorf("%d paces are remembered of owners that rest", len(p.paces))
		}
	})
}
