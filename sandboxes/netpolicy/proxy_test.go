package netpolicy

import (
	"bufio"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/netpolicy/egress"
)

// get asks for a URL from a sandbox, through the proxy that its environment names.
func get(t *testing.T, n *Network, s Slot, address string) (status int, err error) {
	t.Helper()
	var proxy *url.URL
	for _, e := range s.Env {
		if value, ok := strings.CutPrefix(e, "http_proxy="); ok {
			if proxy, err = url.Parse(value); err != nil {
				t.Fatal(err)
			}
		}
	}
	if proxy == nil {
		t.Fatalf("no proxy in %q", s.Env)
	}
	err = n.in(s, func() error {
		// A dial of the transport's own would be on another thread, and elsewhere.
		conn, err := net.Dial("tcp4", proxy.Host)
		if err != nil {
			return err
		}
		defer conn.Close()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		if err != nil {
			return err
		}
		if err := request.WriteProxy(conn); err != nil {
			return err
		}
		answer, err := http.ReadResponse(bufio.NewReader(conn), request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		status = answer.StatusCode
		return nil
	})
	return status, err
}

func TestTheProxyKnowsItsSandboxes(t *testing.T) {
	var mu sync.Mutex
	var denied []egress.Denial
	n := openOn(t, newHost(t), Options{Egress: egress.Options{Audit: func(d egress.Denial) {
		mu.Lock()
		defer mu.Unlock()
		denied = append(denied, d)
	}}})
	closed := acquire(t, n, "closed")
	open, err := n.Acquire(t.Context(), "open", sandboxes.NetworkPolicy{Egress: sandboxes.EgressOpen})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []Slot{closed, open} {
		status, err := get(t, n, s, "http://169.254.169.254/latest/meta-data/")
		if err != nil || status != http.StatusForbidden {
			t.Errorf("%s: the metadata service: status %d, %v", s.ID, status, err)
		}
		if usage(t, n, s.ID).Egress.Denials == 0 {
			t.Errorf("%s: nothing was counted", s.ID)
		}
		mu.Lock()
		if last := denied[len(denied)-1]; last.Client != s.ID {
			t.Errorf("%s: audited as %+v", s.ID, last)
		}
		mu.Unlock()
	}
	if err := n.Release(t.Context(), "closed"); err != nil {
		t.Fatal(err)
	}
	if u := n.proxy.Usage(closed.Address); u.Denials != 0 {
		t.Errorf("the proxy still knows the sandbox that is gone: %+v", u)
	}
}

func TestMirrorIsInTheEnvironment(t *testing.T) {
	n := openOn(t, newHost(t), Options{})
	s, err := n.Acquire(t.Context(), "a", sandboxes.NetworkPolicy{Egress: sandboxes.EgressPackages, Mirror: "http://10.0.0.9:3141/root/pypi/+simple/"})
	if err != nil {
		t.Fatal(err)
	}
	env := strings.Join(s.Env, "\n")
	for _, want := range []string{"PIP_INDEX_URL=http://10.0.0.9:3141/root/pypi/+simple/", "PIP_TRUSTED_HOST=10.0.0.9:3141", "HTTPS_PROXY=http://10.143.0.1:8891"} {
		if !strings.Contains(env, want) {
			t.Errorf("%q is not in the environment %q", want, s.Env)
		}
	}
}
