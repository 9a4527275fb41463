package filesync

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kernelgw/contents"
)

// brittle is a connection that breaks when so many bytes have crossed it.
type brittle struct {
	net.Conn
	left *atomic.Int64
}

func (c brittle) spend(n int) error {
	if c.left.Add(-int64(n)) < 0 {
		c.Close()
		return errors.New("the link broke")
	}
	return nil
}

// Read implements net.Conn.
func (c brittle) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if broken := c.spend(n); broken != nil {
		return 0, broken
	}
	return n, err
}

// Write implements net.Conn. What is beyond the limit does not arrive.
func (c brittle) Write(p []byte) (int, error) {
	if left := c.left.Load(); int64(len(p)) > left {
		n, _ := c.Conn.Write(p[:max(left, 0)])
		c.Close()
		return n, errors.New("the link broke")
	}
	if err := c.spend(len(p)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// linkFor links the box until so many bytes have crossed the link, or nothing is
// left to do. It reports whether the link broke.
func (b *box) linkFor(bytes int64) (broke bool) {
	ours, theirs := pair(b.t)
	ctx, cancel := context.WithCancel(context.Background())
	var both sync.WaitGroup
	left := &atomic.Int64{}
	left.Store(bytes)
	both.Go(func() {
		b.server.Serve(ctx, ours, workspace, "sandbox")
		cancel()
	})
	both.Go(func() { b.syncer.Link(ctx, brittle{theirs, left}) })
	for ctx.Err() == nil {
		if st := b.syncer.Status(); st.Linked && st.Waiting == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	broke = ctx.Err() != nil
	ours.Close()
	cancel()
	both.Wait()
	return broke
}

// The link breaks after each of many numbers of bytes: in the middle of the
// manifest, of a file either way, of an answer whose request was done.
func TestAttackLinkBreaksInTheMiddleOfEachStep(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 1))
			w := newWorld(t, nil)
			remote, local := map[string]string{}, map[string]string{}
			for i := range 15 {
				p := fmt.Sprintf("r%d/f%d", i%3, i)
				remote[p] = strings.Repeat(strconv.Itoa(i), 1+random.IntN(3000))
				w.save(p, remote[p])
			}
			b := w.linked()
			b.cutLink()
			for i := range 15 {
				p := fmt.Sprintf("l%d/f%d", i%3, i)
				local[p] = "local " + strings.Repeat(strconv.Itoa(i), 1+random.IntN(3000))
				b.write(p, local[p])
			}
			for i := range 5 { // changed on both sides
				p := fmt.Sprintf("r%d/f%d", i%3, i)
				local["both "+p] = "local " + p
				remote[p] = "remote " + p
				b.write(p, local["both "+p])
				w.save(p, remote[p])
			}
			if err := errors.Join(os.Remove(b.path("r0/f6")), os.RemoveAll(b.path("r2"))); err != nil {
				t.Fatal(err)
			}
			for i := 8; i < 15; i += 3 {
				delete(remote, fmt.Sprintf("r2/f%d", i))
			}
			delete(remote, "r2/f5")
			delete(remote, "r0/f6")
			if err := w.store.Delete(t.Context(), workspace, "r1/f13", "browser", contents.Match{}); err != nil {
				t.Fatal(err)
			}
			delete(remote, "r1/f13")
			delete(local, "both r2/f2") // removed here, changed there: it stays

			breaks := 0
			for budget := 50 + random.Int64N(50); b.linkFor(budget); budget += 50 + random.Int64N(100) {
				breaks++
			}
			t.Logf("the link broke %d times", breaks)
			b.link()
			b.flush()
			b.same()

			left := map[string]int{}
			for _, content := range w.stored() {
				left[content]++
			}
			for p, content := range remote {
				if got, _ := w.read(p); got != content {
					t.Errorf("%s is %.30q, want %.30q", p, got, content)
				}
			}
			for p, content := range local {
				if left[content] != 1 {
					t.Errorf("what was written to %s is there %d times", p, left[content])
				}
			}
			for _, p := range []string{"r0/f6", "r1/f13", "r2/f8"} {
				if _, ok := w.read(p); ok {
					t.Errorf("%s came back", p)
				}
			}
		})
	}
}

// cycles is how often sandboxes start and stop: a few here, a thousand by
// KERNELGW_SOAK_CYCLES in make soak.
func cycles(t *testing.T, few int) int {
	text := os.Getenv("KERNELGW_SOAK_CYCLES")
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("KERNELGW_SOAK_CYCLES: %v", err)
	}
	return n
}

// Each cycle is a new sandbox that pulls, is written to at random together with
// the store, flushes and ends. What was flushed is there, and all that both sides
// hold is the same.
func TestStartStopCyclesEndWithEqualTrees(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	w := newWorld(t, nil)
	name := func() string {
		p := fmt.Sprint("f", random.IntN(20))
		for range random.IntN(3) {
			p = path.Join(fmt.Sprint("d", random.IntN(3)), p)
		}
		return p
	}
	n := cycles(t, 20)
	for cycle := range n {
		b := w.linked()
		if d := difference(b.local(), w.stored()); d != "" {
			t.Fatalf("cycle %d, after the pull: %s", cycle, d)
		}
		var writers sync.WaitGroup
		mine := map[string]string{}
		for i := range 10 + random.IntN(20) {
			p := "mine/" + name()
			switch random.IntN(6) {
			case 0:
				os.Remove(b.path(p))
				delete(mine, p)
			case 1:
				os.RemoveAll(b.path(path.Dir(p)))
				for other := range mine {
					if strings.HasPrefix(other, path.Dir(p)+"/") {
						delete(mine, other)
					}
				}
			default:
				mine[p] = fmt.Sprintf("%d %d %s", cycle, i, strings.Repeat("x", random.IntN(5000)))
				if os.MkdirAll(path.Dir(b.path(p)), 0o755) != nil || os.WriteFile(b.path(p), []byte(mine[p]), 0o644) != nil {
					delete(mine, p) // a directory is in the way
				}
			}
		}
		writers.Go(func() { // the browser, in files of its own and in the same
			for i := range 10 {
				w.store.Put(context.Background(), workspace, fmt.Sprint("theirs/f", i), strings.NewReader(fmt.Sprint(cycle, i)), contents.PutOptions{Parents: true})
			}
		})
		writers.Wait()
		if cycle%5 == 4 { // the gateway dies and comes back
			b.cutLink()
			b.write("mine/while-gone", fmt.Sprint(cycle))
			mine["mine/while-gone"] = fmt.Sprint(cycle)
			b.link()
		}
		b.flush()
		for p, content := range mine {
			if got, _ := w.read(p); got != content {
				t.Fatalf("cycle %d: %s was flushed and is %.40q, want %.40q", cycle, p, got, content)
			}
		}
		b.same()
		b.stop()
		if st := b.syncer.Status(); st.Conflicts != 0 {
			t.Fatalf("cycle %d: %d conflicts", cycle, st.Conflicts)
		}
		os.RemoveAll(b.dir)
	}
	t.Logf("%d cycles", n)
}
