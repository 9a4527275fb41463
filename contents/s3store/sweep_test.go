package s3store_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"kernelgw/contents"
	"kernelgw/contents/s3store"
)

// gate holds the first request whose path and query have a word until it is opened.
type gate struct {
	on      http.RoundTripper
	reached chan struct{} // closed when the request came
	open    chan struct{}

	mu   sync.Mutex
	word string // "" after the request
}

// RoundTrip implements http.RoundTripper.
func (g *gate) RoundTrip(r *http.Request) (*http.Response, error) {
	query, _ := url.QueryUnescape(r.URL.RawQuery)
	g.mu.Lock()
	holds := g.word != "" && strings.Contains(r.Method+" "+r.URL.Path+"?"+query, g.word)
	if holds {
		g.word = ""
	}
	g.mu.Unlock()
	if holds {
		close(g.reached)
		<-g.open
	}
	return g.on.RoundTrip(r)
}

// hold holds the next request with a word.
func (g *gate) hold(word string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reached, g.open, g.word = make(chan struct{}), make(chan struct{}), word
}

func gated(t *testing.T, retention s3store.Retention) (*s3store.Store, *gate) {
	t.Helper()
	at := embedded
	g := &gate{on: at.access.HTTPClient.Transport}
	at.access.HTTPClient = &http.Client{Transport: g}
	at.client = s3store.NewClient(at.access)
	retention.Every = -1
	return at.open(t, func(o *s3store.Options) { o.Retention = retention }), g
}

// sweepHeld sweeps, and does something while a request of the sweep is held.
func sweepHeld(t *testing.T, s *s3store.Store, g *gate, word string, meanwhile func(ctx context.Context) error) {
	t.Helper()
	g.hold(word)
	swept := make(chan error, 1)
	go func() { swept <- s.Sweep(ctxOf(t)) }()
	select {
	case <-g.reached:
	case err := <-swept:
		t.Fatalf("the sweep never asked for %s: %v", word, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := meanwhile(ctx); err != nil {
		t.Errorf("during a sweep that is held at %s: %v", word, err)
	}
	close(g.open)
	if err := <-swept; err != nil {
		t.Errorf("the sweep: %v", err)
	}
}

// Whoever saves, renames or deletes does not wait for a sweep, however long that
// reads: a trash of thousands takes it minutes.
func TestASweepKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	s, g := gated(t, s3store.Retention{Trash: time.Nanosecond})
	ctx := ctxOf(t)
	const deleted = 40 // more than are purged in one step
	for i := range deleted {
		if err := put(ctx, s, "w", fmt.Sprintf("d/%02d", i), "x", contents.PutOptions{Parents: true}); err != nil {
			t.Fatal(err)
		}
	}
	if err := put(ctx, s, "w", "e/f", "x", contents.PutOptions{Parents: true}); err != nil {
		t.Fatal(err)
	}
	work := func(ctx context.Context) error {
		_, made := s.MakeCheckpoint(ctx, "w", "e/f", "", "")
		_, moved := s.Move(ctx, "w", "e", "e2", "", contents.Match{})
		_, back := s.Move(ctx, "w", "e2", "e", "", contents.Match{})
		return errors.Join(
			made, moved, back,
			put(ctx, s, "w", "e/f", "y", contents.PutOptions{}),
			put(ctx, s, "w", fmt.Sprintf("d/%02d", deleted-1), "again", contents.PutOptions{Parents: true}),
		)
	}
	if err := s.Delete(ctx, "w", "d", "", contents.Match{}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // the age of entries counts in seconds
	sweepHeld(t, s, g, "f/d!/05", work) // purging the first of the files
	all := func(ctx context.Context) error {
		return errors.Join(work(ctx), s.Delete(ctx, "w", "d", "", contents.Match{}))
	}
	if err := all(ctx); err != nil {
		t.Fatal(err)
	}
	sweepHeld(t, s, g, "/m/trash/0", all)
	sweepHeld(t, s, g, "/m/cp/", all)
}

// A checkpoint that a rename carries away from under a reading sweep is kept, with
// the version that it holds.
func TestACheckpointThatMovesDuringASweepIsKept(t *testing.T) {
	s, g := gated(t, s3store.Retention{All: time.Nanosecond, Hourly: time.Nanosecond, Daily: time.Nanosecond})
	ctx := ctxOf(t)
	for _, content := range []string{"one", "two", "three"} {
		if err := put(ctx, s, "w", "z/f", content, contents.PutOptions{Parents: true}); err != nil {
			t.Fatal(err)
		}
		if content == "two" {
			if _, err := s.MakeCheckpoint(ctx, "w", "z/f", "", ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	// The record was listed, and is elsewhere when it is read.
	sweepHeld(t, s, g, "/m/cp/z!/f", func(ctx context.Context) error {
		_, err := s.Move(ctx, "w", "z", "a", "", contents.Match{})
		return err
	})
	if err := errors.Join(versionsAre(ctx, s, "w", "a/f", "three", "two"), checkpointsAre(ctx, s, "w", "a/f", 1)); err != nil {
		t.Error(err)
	}
}
