package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// with starts a server and a kernel, and stops both afterwards.
func (s subject) with(ctx context.Context, h *host, do func(srv *server, kernel string) error) error {
	srv, err := s.start(ctx, h)
	if err != nil {
		return err
	}
	defer srv.stop()
	kernel, err := srv.startKernel(ctx, s.kernel)
	if err != nil {
		return err
	}
	return errors.Join(do(srv, kernel), srv.deleteKernel(ctx, kernel))
}

// kernels takes the figures of a server with a kernel once. Idle sockets come first and on a
// server of their own: memory that other work has left free would hide theirs,
// and the stock server takes no more work after it has met its limit.
func (s subject) kernels(ctx context.Context, h *host, p plan, out *figures) error {
	if s.fake {
		err := s.with(ctx, h, func(srv *server, kernel string) error { return s.idle(ctx, srv, kernel, p, out) })
		if err != nil {
			return fmt.Errorf("idle sockets: %w", err)
		}
	}
	return s.with(ctx, h, func(srv *server, kernel string) error {
		for _, quick := range []bool{true, false} {
			if err := s.latency(ctx, srv, kernel, quick, p, out); err != nil {
				return fmt.Errorf("execute round trip: %w", err)
			}
		}
		if err := s.throughput(ctx, srv, kernel, p, out); err != nil {
			return fmt.Errorf("throughput: %w", err)
		}
		return nil
	})
}

// latency measures from an execute_request to the later of its reply and idle.
func (s subject) latency(ctx context.Context, srv *server, kernel string, quick bool, p plan, out *figures) error {
	c, err := srv.connectReady(ctx, kernel, quick)
	if err != nil {
		return err
	}
	defer c.ws.Close()
	n, name := p.plainExecutes, latencyPlain
	if quick {
		n, name = p.executes, latencyQuick
	}
	code := ""
	if !s.fake {
		code = "pass"
	}
	// The client's share is in every server's figure alike: make it small.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	const warmUp = 100 // a kernel just started is still at work on its own
	took := make([]time.Duration, 0, n)
	for i := range warmUp + n {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		start := time.Now()
		if err := c.execute(code, func([]byte) {}); err != nil {
			return err
		}
		if i >= warmUp {
			took = append(took, time.Since(start))
		}
	}
	slices.Sort(took)
	out.add(s, name, float64(took[n/2].Microseconds())/1000)
	return nil
}

// throughput measures one cell that prints many messages of 100 bytes: how fast
// they arrive, what each costs, and how many do not.
func (s subject) throughput(ctx context.Context, srv *server, kernel string, p plan, out *figures) error {
	c, err := srv.connectReady(ctx, kernel, true)
	if err != nil {
		return err
	}
	defer c.ws.Close()
	n := p.messages[srv.kind]
	code := func(n int) string { return "print " + strconv.Itoa(n) + " 100" }
	if !s.fake {
		n = p.pythonMessages
		code = func(n int) string {
			return "_k = get_ipython().kernel\nfor _i in range(" + strconv.Itoa(n) + "):\n" +
				"    _k.send_response(_k.iopub_socket, 'stream', {'name': 'stdout', 'text': ('%d ' % _i).ljust(99, 'x') + '\\n'})\n"
		}
	}
	if err := c.execute(code(n/20), func([]byte) {}); err != nil { // warm up
		return err
	}
	work, err := srv.meter()
	if err != nil {
		return err
	}
	var first, last time.Time
	got, next := 0, 0
	disordered := 0
	err = c.execute(code(n), func(content []byte) {
		last = time.Now()
		if got == 0 {
			first = last
		}
		got++
		if i := number(content); i < next {
			disordered++
		} else {
			next = i + 1
		}
	})
	if errors.Is(err, errIdleLost) {
		out.remark(s, err.Error())
	} else if err != nil {
		return err
	}
	if err := work.stop(); err != nil {
		return err
	}
	if got < 2 {
		return fmt.Errorf("of %d messages %d arrived", n, got)
	}
	out.add(s, throughput, float64(got-1)/last.Sub(first).Seconds())
	work.each(float64(got)/1e6, s, gatewayCPU, agentCPU, out)
	out.add(s, lost, float64(n-got))
	out.add(s, misordered, float64(disordered))
	return nil
}

// number is the count at the beginning of a stream message's text.
func number(content []byte) int {
	_, rest, _ := bytes.Cut(content, []byte(`"text"`))
	rest = bytes.TrimLeft(rest, `: "`)
	digits, _, _ := bytes.Cut(rest, []byte(" "))
	n, err := strconv.Atoi(string(digits))
	if err != nil {
		return -1
	}
	return n
}

// idle opens WebSockets on one kernel until there are enough or the server
// takes no more, leaves them alone, and weighs the processes.
func (s subject) idle(ctx context.Context, srv *server, kernel string, p plan, out *figures) error {
	var readers sync.WaitGroup
	var open atomic.Int64
	var ends atomic.Value // the last error that ended a WebSocket
	var clients []*client
	defer func() {
		for _, c := range clients {
			_ = c.ws.Close()
		}
		readers.Wait()
	}()
	connect := func() error {
		c, err := srv.connect(ctx, kernel, false)
		if err != nil {
			return err
		}
		clients = append(clients, c)
		open.Add(1)
		readers.Go(func() { // answers pings
			for {
				if _, _, err := c.ws.NextReader(); err != nil {
					open.Add(-1)
					ends.Store(err.Error())
					return
				}
			}
		})
		return nil
	}
	// What the first sockets bring about is not the cost of one more.
	const uncounted = 10
	for range uncounted {
		if err := connect(); err != nil {
			return err
		}
	}
	if err := pause(ctx, p.settle); err != nil {
		return err
	}
	agents := srv.agents()
	before, err := rss(srv.pid())
	if err != nil {
		return err
	}
	agentBefore, err := rss(agents...)
	if err != nil {
		return err
	}
	opened := 0
	for refused := 0; opened < p.idleSockets && refused < 3; {
		if err := connect(); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			out.remark(s, fmt.Sprintf("refused a WebSocket after %d: %v", opened, err))
			refused++
			continue
		}
		opened, refused = opened+1, 0
	}
	if err := pause(ctx, p.settle); err != nil {
		return err
	}
	after, err := rss(srv.pid())
	if err != nil {
		return err
	}
	agentAfter, err := rss(agents...)
	if err != nil {
		return err
	}
	held := open.Load() - uncounted
	if held <= 0 {
		return fmt.Errorf("no WebSocket stayed open: %v", ends.Load())
	}
	if int(held) < opened {
		out.remark(s, fmt.Sprintf("accepted more idle WebSockets than it kept; one ended with %q", ends.Load()))
	}
	out.add(s, idleOpen, float64(held))
	// What a server closed again may still have its memory.
	out.add(s, idleRSS, float64(after-before)/float64(opened))
	if len(agents) > 0 {
		out.add(s, idleAgentRSS, float64(agentAfter-agentBefore)/float64(opened))
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
