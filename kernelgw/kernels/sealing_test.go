package kernels

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestOneWhoFollowsALogDoesNotCutItToPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, began, seals := newSealPace(), time.Now(), 0
		ask := func(parts bool, result error) {
			t.Helper()
			time.Sleep(time.Millisecond)
			err := p.seal(t.Context(), func(context.Context) (bool, error) { seals++; return parts, result })
			if !errors.Is(err, result) {
				t.Fatal(err)
			}
		}
		for range sealFirst {
			ask(true, nil)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("the first parts take %v", took)
		}
		for range 1000 {
			ask(true, nil)
		}
		if most := sealFirst + 1 + int(time.Since(began)/sealEvery); seals > most {
			t.Errorf("%d parts were made in %v, want at most %d", seals, time.Since(began), most)
		}
		ask(false, nil)
		began = time.Now()
		for range 1000 { // of a kernel that prints nothing
			ask(false, nil)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("where there is nothing it takes %v", took)
		}
		silent := errors.New("the agent is silent")
		ask(false, silent)
		ask(false, nil)
	})
}

func TestManyWhoAskForALogHaveItSealedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, seals := newSealPace(), 0
		var asking sync.WaitGroup
		for i := range 100 {
			asking.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				err := p.seal(t.Context(), func(context.Context) (bool, error) {
					seals++
					time.Sleep(time.Minute)
					return true, nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		asking.Wait()
		if seals != 2 { // that which had begun does not have what the later ones ask for
			t.Errorf("it was sealed %d times", seals)
		}
	})
}
