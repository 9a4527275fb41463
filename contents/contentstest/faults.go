package contentstest

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"kernelgw/contents"
)

// faults are what a test tells the fake to do wrong. The zero value does nothing
// wrong.
type faults struct {
	guard sync.Mutex
	fails map[string][]error // by method; "" is any
	slow  time.Duration
	short int64 // bytes after which the next content breaks off
	cuts  bool
}

// FailNext makes the next n calls of a method fail; "" is any method. err should
// wrap one of the errors of contents, as a real store's do.
func (f *faults) FailNext(method string, n int, err error) {
	f.guard.Lock()
	defer f.guard.Unlock()
	if f.fails == nil {
		f.fails = map[string][]error{}
	}
	for range n {
		f.fails[method] = append(f.fails[method], err)
	}
}

// Slow makes every call wait for so long, or until its context ends.
func (f *faults) Slow(d time.Duration) {
	f.guard.Lock()
	defer f.guard.Unlock()
	f.slow = d
}

// CutNext makes the content that is opened next break off after n bytes.
func (f *faults) CutNext(n int64) {
	f.guard.Lock()
	defer f.guard.Unlock()
	f.short, f.cuts = n, true
}

// fault is called first by each method.
func (f *faults) fault(ctx context.Context, method string) error {
	f.guard.Lock()
	wait := f.slow
	var err error
	for _, key := range []string{method, ""} {
		if list := f.fails[key]; err == nil && len(list) > 0 {
			err, f.fails[key] = list[0], list[1:]
		}
	}
	f.guard.Unlock()
	if wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}

func (f *faults) cut(r io.Reader) io.Reader {
	f.guard.Lock()
	defer f.guard.Unlock()
	if !f.cuts {
		return r
	}
	f.cuts = false
	return io.MultiReader(io.LimitReader(r, f.short), broken{})
}

type broken struct{}

func (broken) Read([]byte) (int, error) {
	return 0, fmt.Errorf("the content broke off: %w", contents.ErrUnavailable)
}
