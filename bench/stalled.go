package main

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// pastStalled prints much, to a client that reads, first alone and then beside one
// that does not: what does that cost the server and the client?
func (s subject) pastStalled(ctx context.Context, srv *server, kernel string, bytes int, out *figures) error {
	const size = 64 << 10
	n := bytes / size
	c, err := srv.connectReady(ctx, kernel, true)
	if err != nil {
		return err
	}
	defer c.ws.Close()
	watch, err := srv.watchMemory()
	if err != nil {
		return err
	}
	defer watch.stop()
	print := func() (took time.Duration, missing int, err error) {
		begin, got := time.Now(), 0
		err = c.execute(printing(n, size), func([]byte) { got++ })
		return time.Since(begin), n - got, err
	}
	alone, _, err := print()
	if err != nil {
		return err
	}
	stalled, err := srv.connect(ctx, kernel, false)
	if err != nil {
		return err
	}
	defer stalled.ws.Close()
	if tcp, ok := stalled.ws.NetConn().(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(64 << 10) // it has larger ones at its other end
	}
	beside, missing, err := print()
	if err != nil {
		return err
	}
	grown := watch.stop()
	out.add(s, stalledGrowth, float64(grown)/1024)
	out.add(s, stalledTime, beside.Seconds()/alone.Seconds())
	out.add(s, stalledLost, float64(missing))
	return nil
}

// memoryWatch follows the resident memory of a server and its agents.
type memoryWatch struct {
	pids   []int
	before int // KiB
	end    chan struct{}
	once   sync.Once
	done   sync.WaitGroup
	most   int // owned by the goroutine until done
}

func (s *server) watchMemory() (*memoryWatch, error) {
	w := &memoryWatch{pids: append(s.agents(), s.pid()), end: make(chan struct{})}
	var err error
	if w.before, err = rss(w.pids...); err != nil {
		return nil, fmt.Errorf("cannot read the memory of the server: %w", err)
	}
	w.done.Go(func() {
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-w.end:
				return
			case <-ticker.C:
				if now, err := rss(w.pids...); err == nil { // else one has just ended
					w.most = max(w.most, now)
				}
			}
		}
	})
	return w, nil
}

// stop returns by how many KiB the memory had grown at most. It may be called twice.
func (w *memoryWatch) stop() (grown int) {
	w.once.Do(func() { close(w.end) })
	w.done.Wait()
	return max(w.most-w.before, 0)
}
