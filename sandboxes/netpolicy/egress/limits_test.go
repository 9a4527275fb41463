package egress

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// closes waits until the other end has hung up, and returns what it said.
func closes(t *testing.T, conn net.Conn, within time.Duration) string {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(within))
	said, err := io.ReadAll(conn)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("still open after %v", within)
	}
	return string(said)
}

func TestSlowLoris(t *testing.T) {
	w := newWorld(t)
	// Long enough for this test's own requests, however busy the machine is.
	w.proxy.limits.header = 1500 * time.Millisecond
	w.serve()
	w.host("data.example.org", publicIP, say("x"))
	s := w.admit(1, only("data.example.org"))
	hello := helloOf(t, &tls.Config{ServerName: "data.example.org"})
	start, begun := time.Now(), map[string]net.Conn{}
	for what, begin := range map[string]func() net.Conn{
		"silent": s.dial,
		"half a request": func() net.Conn {
			conn := s.dial()
			io.WriteString(conn, "GET http://data.example.org/ HTTP/1.1\r\nX-A: ")
			return conn
		},
		"silent in a tunnel": func() net.Conn { return s.tunnel("data.example.org:443") },
		"half a ClientHello": func() net.Conn {
			conn := s.tunnel("data.example.org:443")
			conn.Write(hello[:len(hello)/2])
			return conn
		},
	} {
		begun[what] = begin()
	}
	for what, conn := range begun {
		closes(t, conn, 20*time.Second)
		if took := time.Since(start); took < time.Second {
			t.Errorf("%s: cut after %v", what, took)
		}
	}
	w.stop()
	if u := w.proxy.Usage(s.addr); u.Open != 0 || u.Up != 0 {
		t.Errorf("usage %+v", u)
	}
}

func TestHugeHeaders(t *testing.T) {
	w := newWorld(t).serve()
	s := w.admit(1, open)
	for what, request := range map[string]string{
		"header":       "GET http://data.example.org/ HTTP/1.1\r\nHost: data.example.org\r\nX: " + strings.Repeat("a", 80<<10) + "\r\n\r\n",
		"many headers": "GET http://data.example.org/ HTTP/1.1\r\nHost: data.example.org\r\n" + strings.Repeat("X: a\r\n", 20<<10) + "\r\n",
		"URL":          "GET http://data.example.org/" + strings.Repeat("a", 80<<10) + " HTTP/1.1\r\nHost: data.example.org\r\n\r\n",
		"host":         "CONNECT " + strings.Repeat("a", 80<<10) + ":443 HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		conn := s.dial()
		go io.WriteString(conn, request)
		said := make([]byte, len("HTTP/1.1 431"))
		if _, err := io.ReadFull(conn, said); err != nil || string(said) != "HTTP/1.1 431" {
			t.Errorf("%s: %q %v", what, said, err)
		}
		conn.Close()
	}
	if w.dials() != 0 {
		t.Error("dialled")
	}
}

func TestHostThatFloodsHeaders(t *testing.T) {
	w := newWorld(t).serve()
	w.plainHost("data.example.org", publicIP, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X", strings.Repeat("a", 400<<10))
	}))
	s := w.admit(1, open)
	if status, body := s.get("http://data.example.org/"); status != 502 {
		t.Errorf("%d %.100s", status, body)
	}
}

func TestConnectionsOfAClientAreLimited(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Connections = 3 }).serve()
	w.host("data.example.org", publicIP, say("x"))
	s, other := w.admit(1, only("data.example.org")), w.admit(2, only("data.example.org"))
	var open []net.Conn
	for range 3 {
		open = append(open, s.tunnel("data.example.org:443"))
	}
	closes(t, s.dial(), 10*time.Second)
	if d := w.lastDenial(); d.Client != "sandbox-1" || !strings.Contains(d.Reason, "3 connections") {
		t.Errorf("%+v", d)
	}
	if status, _ := other.get("https://data.example.org/"); status != 200 {
		t.Errorf("another client suffers: %d", status)
	}
	open[0].Close()
	// The place is free when the proxy has noticed.
	for start := time.Now(); ; {
		conn := s.dial()
		io.WriteString(conn, "CONNECT data.example.org:443 HTTP/1.1\r\nHost: data.example.org:443\r\n\r\n")
		said := make([]byte, 12)
		if _, err := io.ReadFull(conn, said); err == nil && string(said) == "HTTP/1.1 200" {
			return
		}
		conn.Close()
		if time.Since(start) > 10*time.Second {
			t.Fatal("the place is not free again")
		}
	}
}

func TestIdleConnectionsAreCut(t *testing.T) {
	w := newWorld(t)
	w.proxy.limits.idle = time.Second
	w.serve()
	stop := make(chan struct{})
	defer close(stop)
	hang := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 13 { // longer than the idle time: what moves is not idle
			io.WriteString(w, "x")
			http.NewResponseController(w).Flush()
			time.Sleep(100 * time.Millisecond)
		}
		select {
		case <-r.Context().Done():
		case <-stop:
		}
	})
	w.host("data.example.org", publicIP, hang)
	w.plainHost("data.example.org", publicIP, hang)
	s := w.admit(1, only("data.example.org"))
	var downloads sync.WaitGroup
	for _, url := range []string{"https://data.example.org/", "http://data.example.org/"} {
		downloads.Go(func() {
			response, err := s.http.Get(url)
			if err != nil {
				t.Error(err)
				return
			}
			start := time.Now()
			body, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err == nil || string(body) != strings.Repeat("x", 13) || time.Since(start) > 15*time.Second {
				t.Errorf("%s: %q, %v after %v", url, body, err, time.Since(start))
			}
		})
	}
	downloads.Wait()
}

// A client that does not read costs no more than buffers, and is cut.
func TestClientThatDoesNotRead(t *testing.T) {
	w := newWorld(t)
	w.proxy.limits.idle = time.Second
	w.serve()
	sent := make(chan int, 2)
	flood := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		total, chunk := 0, make([]byte, 64<<10)
		for {
			n, err := w.Write(chunk)
			total += n
			if err != nil || total > 1<<30 {
				sent <- total
				return
			}
		}
	})
	w.plainHost("data.example.org", publicIP, flood)
	w.host("data.example.org", publicIP, flood)
	s := w.admit(1, only("data.example.org"))
	for _, url := range []string{"http://data.example.org/", "https://data.example.org/"} {
		response, err := s.http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
	}
	for range 2 {
		if total := <-sent; total > 100<<20 {
			t.Errorf("%d bytes went nowhere", total)
		}
	}
}
