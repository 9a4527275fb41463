package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"kernelgw/sandboxes"
)

// openEnds gives a sandbox a tunnel and a plain response that both go on until
// they are cut.
func openEnds(t *testing.T, w *world, policy sandboxes.NetworkPolicy) (s *sandbox, bodies []io.ReadCloser) {
	t.Helper()
	hang := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "begun")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	w.host("data.example.org", publicIP, hang)
	w.plainHost("data.example.org", publicIP, hang)
	s = w.admit(1, policy)
	s.http.Timeout = 0
	for _, url := range []string{"https://data.example.org/", "http://data.example.org/"} {
		response, err := s.http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { response.Body.Close() })
		if _, err := io.ReadFull(response.Body, make([]byte, len("begun"))); err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, response.Body)
	}
	if u := w.proxy.Usage(s.addr); u.Open != 2 {
		t.Fatalf("usage %+v", u)
	}
	return s, bodies
}

func areCut(t *testing.T, bodies []io.ReadCloser) {
	t.Helper()
	for i, body := range bodies {
		done := make(chan error, 1)
		go func() {
			_, err := body.Read(make([]byte, 1))
			done <- err
		}()
		select {
		case err := <-done:
			if err == nil || errors.Is(err, io.EOF) {
				t.Errorf("connection %d ended well: %v", i, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("connection %d is open", i)
		}
	}
}

func TestNewPolicyCutsWhatItDenies(t *testing.T) {
	w := newWorld(t).serve()
	s, bodies := openEnds(t, w, only("data.example.org"))
	if err := w.proxy.Admit(s.addr, "sandbox-1", only("data.example.org", "other.example.org")); err != nil {
		t.Fatal(err)
	}
	if u := w.proxy.Usage(s.addr); u.Open != 2 {
		t.Errorf("a policy that still allows them cut connections: %+v", u)
	}
	if err := w.proxy.Admit(s.addr, "sandbox-1", sandboxes.NetworkPolicy{Egress: "nonsense"}); !errors.Is(err, sandboxes.ErrInvalid) {
		t.Errorf("%v", err)
	}
	if u := w.proxy.Usage(s.addr); u.Open != 2 {
		t.Errorf("a policy that makes no sense cut connections: %+v", u)
	}
	if err := w.proxy.Admit(s.addr, "sandbox-1", only("other.example.org")); err != nil {
		t.Fatal(err)
	}
	areCut(t, bodies)
	if status, _ := s.get("http://data.example.org/"); status != 403 {
		t.Errorf("status %d", status)
	}
	if u := w.proxy.Usage(s.addr); u.Connections != 2 || u.Open != 0 {
		t.Errorf("usage did not go on: %+v", u)
	}
}

func TestDismissCutsAll(t *testing.T) {
	w := newWorld(t).serve()
	s, bodies := openEnds(t, w, open)
	w.proxy.Dismiss(s.addr)
	areCut(t, bodies)
	if u := w.proxy.Usage(s.addr); u != (Usage{}) {
		t.Errorf("usage %+v", u)
	}
}

// An address that is another sandbox's now inherits nothing.
func TestAddressOfAnotherClient(t *testing.T) {
	w := newWorld(t).serve()
	s, bodies := openEnds(t, w, open)
	if err := w.proxy.Admit(s.addr, "sandbox-2", open); err != nil {
		t.Fatal(err)
	}
	areCut(t, bodies)
	if u := w.proxy.Usage(s.addr); u != (Usage{}) {
		t.Errorf("usage %+v", u)
	}
}

func TestServeEndsAll(t *testing.T) {
	w := newWorld(t).serve()
	_, bodies := openEnds(t, w, open)
	w.stop()
	areCut(t, bodies)
}

// A dial that was under way when the policy changed gives no connection.
func TestPolicyChangeDuringADial(t *testing.T) {
	w := newWorld(t)
	p := w.proxy
	w.serve()
	w.plainHost("data.example.org", publicIP, say("x"))
	s := w.admit(1, only("data.example.org"))
	p.resolver = changes{Resolver: p.resolver, then: func() { p.Admit(s.addr, "sandbox-1", only()) }}
	if status, body := s.get("http://data.example.org/"); status != 403 || !strings.Contains(body, "changed") {
		t.Errorf("%d %s", status, body)
	}
	if u := p.Usage(s.addr); u.Open != 0 || u.Connections != 0 {
		t.Errorf("usage %+v", u)
	}
}

type changes struct {
	Resolver
	then func()
}

func (c changes) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	defer c.then()
	return c.Resolver.LookupNetIP(ctx, network, host)
}

func TestServeSaysWhatIsWrongWithItsListener(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	if err := newWorld(t).proxy.Serve(context.Background(), listener); err == nil {
		t.Error("no error")
	}
}

// Half-closed tunnels go on in the other direction.
func TestHalfClose(t *testing.T) {
	in, out := pairs(t), pairs(t)
	c := &client{links: map[*link]struct{}{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		join(&inbound{idleConn: idleConn{Conn: in[1], idle: time.Minute}, client: c}, &outbound{idleConn: idleConn{Conn: out[0], idle: time.Minute}, client: c})
	}()
	big := strings.Repeat("0123456789abcdef", 1<<16)
	go func() {
		io.WriteString(in[0], big)
		in[0].CloseWrite()
	}()
	if got, err := io.ReadAll(out[1]); err != nil || string(got) != big {
		t.Errorf("up: %d bytes, %v", len(got), err)
	}
	go func() {
		io.WriteString(out[1], big+big)
		out[1].CloseWrite()
	}()
	if got, err := io.ReadAll(in[0]); err != nil || string(got) != big+big {
		t.Errorf("down: %d bytes, %v", len(got), err)
	}
	<-done
	if up, down := c.up.Load(), c.down.Load(); up != uint64(len(big)) || down != uint64(2*len(big)) {
		t.Errorf("counted %d up, %d down of %d", up, down, len(big))
	}
}

// pairs returns the two ends of a TCP connection.
func pairs(t *testing.T) (ends [2]*net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	first, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	second, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { first.Close(); second.Close() })
	return [2]*net.TCPConn{first.(*net.TCPConn), second.(*net.TCPConn)}
}
