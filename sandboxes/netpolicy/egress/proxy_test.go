package egress

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"kernelgw/sandboxes"
)

const publicIP = "93.184.216.34"

func only(hosts ...string) sandboxes.NetworkPolicy {
	return sandboxes.NetworkPolicy{Egress: sandboxes.EgressNone, Allow: hosts}
}

var open = sandboxes.NetworkPolicy{Egress: sandboxes.EgressOpen}

func TestAllowedHostIsReachedOverTLSAndHTTP(t *testing.T) {
	w := newWorld(t).serve()
	w.host("data.example.org", publicIP, say("secure"))
	w.plainHost("data.example.org", publicIP, say("plain"))
	s := w.admit(1, only("data.example.org"))
	if status, body := s.get("https://data.example.org/"); status != 200 || body != "secure" {
		t.Errorf("https: %d %s", status, body)
	}
	if status, body := s.get("http://data.example.org/"); status != 200 || body != "plain" {
		t.Errorf("http: %d %s", status, body)
	}
	if u := w.proxy.Usage(s.addr); u.Connections != 2 || u.Up == 0 || u.Down == 0 || u.Denials != 0 {
		t.Errorf("usage %+v", u)
	}
}

func TestRefusalNamesHostPolicyAndRemedy(t *testing.T) {
	w := newWorld(t).serve()
	s := w.admit(1, sandboxes.NetworkPolicy{Egress: sandboxes.EgressPackages})
	status, body := s.get("http://evil.example.org/x")
	if status != http.StatusForbidden {
		t.Errorf("status %d", status)
	}
	for _, part := range []string{"evil.example.org:80", "packages", "Remedy:"} {
		if !strings.Contains(body, part) {
			t.Errorf("body lacks %q: %s", part, body)
		}
	}
	if d := w.lastDenial(); d.Client != "sandbox-1" || d.Host != "evil.example.org" || d.Port != 80 || d.At.IsZero() {
		t.Errorf("denial %+v", d)
	}
	// Most clients show nothing of CONNECT's answer but the status line.
	_, response := s.say("CONNECT evil.example.org:443 HTTP/1.1\r\nHost: evil.example.org:443\r\n\r\n")
	if response.StatusCode != 403 || !strings.Contains(response.Status, "evil.example.org:443") || !strings.Contains(response.Status, "packages") {
		t.Errorf("status line %q", response.Status)
	}
	if u := w.proxy.Usage(s.addr); u.Denials != 2 {
		t.Errorf("usage %+v", u)
	}
}

func TestUnknownSourceGetsNothing(t *testing.T) {
	w := newWorld(t).serve()
	s := w.admit(1, open)
	w.proxy.Dismiss(s.addr)
	if conn, response := s.say("GET http://data.example.org/ HTTP/1.1\r\nHost: data.example.org\r\n\r\n"); response != nil {
		t.Errorf("answered %v on %v", response, conn)
	}
	if d := w.lastDenial(); d.Client != "" || !strings.Contains(d.Reason, s.addr.String()) {
		t.Errorf("denial %+v", d)
	}
}

func TestUsageOfNobodyIsZero(t *testing.T) {
	w := newWorld(t)
	if u := w.proxy.Usage(netip.MustParseAddr("10.0.0.9")); u != (Usage{}) {
		t.Errorf("%+v", u)
	}
	w.proxy.Dismiss(netip.MustParseAddr("10.0.0.9"))
}

func packagesFrom(mirror string) sandboxes.NetworkPolicy {
	return sandboxes.NetworkPolicy{Egress: sandboxes.EgressPackages, Mirror: mirror}
}
