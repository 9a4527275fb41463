package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/gorilla/websocket"
)

// comeBacks has a client leave in the middle of a cell and come back: after a
// close, after a reset, and after one while another client stays.
func (s subject) comeBacks(ctx context.Context, srv *server, kernel string, n int, out *figures) error {
	disordered, repeated := 0, 0
	for _, way := range []struct {
		missing       *figure
		reset, shared bool
	}{{missing: politeLost}, {missing: abruptLost, reset: true}, {missing: sharedLost, reset: true, shared: true}} {
		seen, err := srv.comeBack(ctx, kernel, n, way.reset, way.shared)
		if err != nil {
			return fmt.Errorf("%s: %w", way.missing.name, err)
		}
		out.add(s, way.missing, float64(n-len(seen.numbers)))
		disordered += seen.disordered
		repeated += seen.repeated
	}
	out.add(s, returnOrder, float64(disordered))
	out.add(s, returnRepeats, float64(repeated))
	return nil
}

// sightings are the numbered messages that a client got over several connections.
type sightings struct {
	numbers              map[int]bool
	next                 int
	disordered, repeated int
}

func (s *sightings) see(number int) {
	switch {
	case s.numbers[number]:
		s.repeated++
	case number < s.next:
		s.disordered++
	}
	s.numbers[number] = true
	s.next = max(s.next, number+1)
}

// away is how long the client is.
const away = 200 * time.Millisecond

func (s *server) comeBack(ctx context.Context, kernel string, n int, reset, shared bool) (*sightings, error) {
	c, err := s.connect(ctx, kernel, true)
	if err != nil {
		return nil, err
	}
	defer func() { c.ws.Close() }()
	if err := c.ready(); err != nil {
		return nil, err
	}
	if shared {
		other, err := s.connect(ctx, kernel, true)
		if err != nil {
			return nil, err
		}
		defer other.ws.Close()
		go func() { // until it is closed
			for {
				if _, _, err := other.ws.NextReader(); err != nil {
					return
				}
			}
		}()
	}
	sent, err := c.send("execute_request", request(fmt.Sprintf("print %d 100 1", n)))
	if err != nil {
		return nil, err
	}
	seen := &sightings{numbers: map[int]bool{}}
	c.quiet = 5 * time.Second
	c.follow(sent, n/3, seen.see)
	if reset {
		err = c.reset()
	} else {
		err = c.goAway()
		c.follow(sent, 2*n, seen.see) // until the server's answer: it has what was under way
	}
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, away); err != nil {
		return nil, err
	}
	back, err := s.reconnect(ctx, kernel, c.session)
	if err != nil {
		return nil, fmt.Errorf("it cannot come back: %w", err)
	}
	defer back.ws.Close()
	back.quiet = c.quiet
	back.follow(sent, 2*n, seen.see)
	return seen, nil
}

// goAway begins the closing handshake.
func (c *client) goAway() error {
	return c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseGoingAway, ""), time.Now().Add(patience))
}

// reset ends the connection without a word.
func (c *client) reset() error {
	conn := c.ws.NetConn()
	if quick, ok := conn.(quickConn); ok {
		conn = quick.Conn
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		if err := tcp.SetLinger(0); err != nil {
			return err
		}
	}
	return conn.Close()
}
