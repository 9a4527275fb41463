package contentstest_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kernelgw/contents"
	"kernelgw/contents/contentstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFakeIsAStore(t *testing.T) {
	contentstest.Run(t, func(_ *testing.T, limit int64) contents.Store {
		f := contentstest.NewFake()
		f.Limit(limit)
		return f
	})
}

func TestFakeKeepsDocuments(t *testing.T) {
	contentstest.RunDocuments(t, func(*testing.T) contents.Documents { return contentstest.NewFakeDocuments() })
}

func TestFakeFailsOnCommand(t *testing.T) {
	f := contentstest.NewFake()
	f.FailNext("Put", 1, contents.ErrUnavailable)
	put := func(ctx context.Context) error {
		_, err := f.Put(ctx, "w", "a", strings.NewReader("0123456789"), contents.PutOptions{})
		return err
	}
	if err := put(t.Context()); !errors.Is(err, contents.ErrUnavailable) {
		t.Errorf("got error %v, want ErrUnavailable", err)
	}
	if err := put(t.Context()); err != nil {
		t.Errorf("after the fault: %v", err)
	}
	f.CutNext(4)
	body, _, err := f.Open(t.Context(), "w", "a", "", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(body)
	if string(got) != "0123" || !errors.Is(err, contents.ErrUnavailable) {
		t.Errorf("got %q, %v, want 0123 and ErrUnavailable", got, err)
	}
	f.Slow(time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := put(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("slow, with an ended context: got error %v", err)
	}
}

func TestFakeTellsWhoIsTooSlow(t *testing.T) {
	f := contentstest.NewFake()
	ctx, cancel := context.WithCancel(t.Context())
	lost, told, hold := make(chan bool, 1), make(chan bool, 10_000), make(chan bool)
	done := make(chan bool)
	go func() {
		defer close(done)
		f.Watch(ctx, "w", func(contents.Change) { told <- true; <-hold }, func() { lost <- true })
	}()
	for len(told) == 0 { // until it watches
		if _, _, err := f.MakeDirectory(t.Context(), "w", time.Now().Format("a150405.000000000")); err != nil {
			t.Fatal(err)
		}
	}
	for range 1000 {
		if _, err := f.Put(t.Context(), "w", "a", strings.NewReader("x"), contents.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	close(hold)
	<-lost
	cancel()
	<-done
}
