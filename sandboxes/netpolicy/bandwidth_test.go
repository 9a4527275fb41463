package netpolicy

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestBandwidthIsLimitedBothWays(t *testing.T) {
	t.Parallel()
	const rate, size = 4 << 20, 6 << 20
	n := openOn(t, newHost(t), Options{Bandwidth: rate})
	s := acquire(t, n, "a")
	var agent net.Listener
	err := n.in(s, func() (err error) {
		agent, err = net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", AgentPort))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	var host net.Conn
	err = inside(n.host, func() (err error) {
		host, err = net.Dial("tcp4", netip.AddrPortFrom(s.Address, AgentPort).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	sandbox, err := agent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer sandbox.Close()
	for name, way := range map[string]struct{ from, to net.Conn }{"to the sandbox": {host, sandbox}, "from the sandbox": {sandbox, host}} {
		start := time.Now()
		sent := make(chan error, 1)
		go func() {
			_, err := way.from.Write(make([]byte, size))
			sent <- err
		}()
		if _, err := io.CopyN(io.Discard, way.to, size); err != nil {
			t.Fatal(err)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		// Without what the bucket held at first.
		if took := time.Since(start); took < time.Second {
			t.Errorf("%s: %d bytes at %d per second took only %v", name, size, rate, took)
		} else {
			t.Logf("%s: %.1f MB/s", name, size/took.Seconds()/1e6)
		}
	}
}
