package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// streams takes the figures of much output once: in large messages, to many
// clients, past one that does not read, and to one that comes back.
func (s subject) streams(ctx context.Context, h *host, p plan, out *figures) error {
	err := s.with(ctx, h, func(srv *server, kernel string) error {
		for _, volume := range []struct {
			size             int
			cpu, agent, rate *figure
		}{{64 << 10, cpu64K, agentCPU64K, rate64K}, {1 << 20, cpu1M, agentCPU1M, rate1M}} {
			if err := s.volume(ctx, srv, kernel, p.volume, volume.size, volume.cpu, volume.agent, volume.rate, out); err != nil {
				return fmt.Errorf("messages of %d bytes: %w", volume.size, err)
			}
		}
		if err := s.fanOut(ctx, srv, kernel, p.fanOut[srv.kind], out); err != nil {
			return fmt.Errorf("a hundred clients: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if s.server != relay { // it stops with the reader
		err := s.with(ctx, h, func(srv *server, kernel string) error { return s.pastStalled(ctx, srv, kernel, p.stalled, out) })
		if err != nil {
			return fmt.Errorf("a stalled reader: %w", err)
		}
	}
	err = s.with(ctx, h, func(srv *server, kernel string) error { return s.comeBacks(ctx, srv, kernel, p.returning, out) })
	if err != nil {
		return fmt.Errorf("clients that come back: %w", err)
	}
	return nil
}

// printing is code of the fake kernel.
func printing(n, size int) string { return "print " + strconv.Itoa(n) + " " + strconv.Itoa(size) }

// volume measures one cell that prints so many bytes in messages of a size.
func (s subject) volume(ctx context.Context, srv *server, kernel string, bytes, size int, perGB, agentPerGB, rate *figure, out *figures) error {
	c, err := srv.connectReady(ctx, kernel, true)
	if err != nil {
		return err
	}
	defer c.ws.Close()
	n := bytes / size
	if err := c.execute(printing(max(n/20, 1), size), func([]byte) {}); err != nil { // warm up
		return err
	}
	work, err := srv.meter()
	if err != nil {
		return err
	}
	begin, got := time.Now(), 0
	if err := c.execute(printing(n, size), func([]byte) { got++ }); err != nil {
		return err
	}
	took := time.Since(begin)
	if err := work.stop(); err != nil {
		return err
	}
	if got != n {
		out.remark(s, fmt.Sprintf("lost %d messages of %d bytes", n-got, size))
	}
	if got == 0 {
		return errors.New("no message came")
	}
	work.each(float64(got)*float64(size)/1e9, s, perGB, agentPerGB, out)
	out.add(s, rate, float64(got)*float64(size)/1e6/took.Seconds())
	return nil
}

// fanOutClients is how many clients look at one kernel.
const fanOutClients = 100

// fanOut measures one cell whose messages go to many clients.
func (s subject) fanOut(ctx context.Context, srv *server, kernel string, n int, out *figures) error {
	clients := make([]*client, fanOutClients)
	for i := range clients {
		c, err := srv.connect(ctx, kernel, true)
		if err != nil {
			return err
		}
		defer c.ws.Close()
		if clients[i] = c; i > 0 {
			continue
		}
		if err := c.ready(); err != nil {
			return err
		}
	}
	work, err := srv.meter()
	if err != nil {
		return err
	}
	var delivered atomic.Int64
	var readers sync.WaitGroup
	sent, err := clients[0].send("execute_request", request(printing(n, 100)))
	if err != nil {
		return err
	}
	for _, c := range clients {
		readers.Go(func() { delivered.Add(int64(c.follow(sent, n, func(int) {}))) })
	}
	readers.Wait()
	if err := work.stop(); err != nil {
		return err
	}
	if delivered.Load() == 0 {
		return errors.New("no message came")
	}
	work.each(float64(delivered.Load())/1e6, s, fanOutCPU, fanOutAgent, out)
	out.add(s, fanOutLost, float64(n*fanOutClients)-float64(delivered.Load()))
	return nil
}

// follow reads the stream messages of a cell that somebody runs, gives the number
// of each to see, and returns how many came until the cell was idle, n were there,
// or nothing came for some seconds. Then the client is of no use any more.
func (c *client) follow(request string, n int, see func(number int)) (got int) {
	id := []byte(request)
	for got < n {
		_ = c.ws.SetReadDeadline(time.Now().Add(c.quiet))
		m, err := c.next()
		switch {
		case err != nil:
			return got
		case !bytes.Contains(m.parent, id):
		case m.is("stream"):
			if i := number(m.content); i >= 0 { // else a server's own
				got++
				see(i)
			}
		case m.is("status") && bytes.Contains(m.content, []byte(`"idle"`)):
			return got
		}
	}
	return got
}
