package egress

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestRebindingAnswerThatFlips(t *testing.T) {
	w := newWorld(t).serve()
	w.plainHost("flip.example.org", publicIP, say("public"))
	w.dns.flip("flip.example.org", []string{publicIP}, []string{"169.254.169.254"})
	s := w.admit(1, open)
	s.DisableKeepAlives = true
	if status, body := s.get("http://flip.example.org/"); status != 200 || body != "public" {
		t.Fatalf("first: %d %s", status, body)
	}
	w.proxy.lookup(s.addr).plain.CloseIdleConnections()
	if status, body := s.get("http://flip.example.org/"); status != 403 || !strings.Contains(body, "metadata") {
		t.Errorf("second: %d %s", status, body)
	}
}

// The flip between the check and the connection finds no second question.
func TestRebindingBetweenCheckAndDial(t *testing.T) {
	w := newWorld(t).serve()
	w.host("toctou.example.org", publicIP, say("public"))
	w.dns.flip("toctou.example.org", []string{publicIP}, []string{"127.0.0.1"})
	s := w.admit(1, open)
	if status, body := s.get("https://toctou.example.org/"); status != 200 || body != "public" {
		t.Errorf("%d %s", status, body)
	}
	if n := w.dns.questions("toctou.example.org"); n != 1 {
		t.Errorf("%d questions for one connection", n)
	}
	if len(w.dialled) != 1 || w.dialled[0] != netip.MustParseAddrPort(publicIP+":443") {
		t.Errorf("dialled %v", w.dialled)
	}
}

func TestAnswersThatMixPublicAndPrivate(t *testing.T) {
	w := newWorld(t).serve()
	s := w.admit(1, open)
	for _, answer := range [][]string{{publicIP, "10.0.0.1"}, {"10.0.0.1", publicIP}, {publicIP, "::1"}, {publicIP, "fd00:ec2::254"}, {publicIP, "64:ff9b::a00:1"}} {
		w.dns.set("mixed.example.org", answer...)
		if status, _ := s.get("http://mixed.example.org/"); status != 403 {
			t.Errorf("%v: %d", answer, status)
		}
	}
	if w.dials() != 0 {
		t.Errorf("dialled %v", w.dialled)
	}
}

func TestAliasOfAnInternalName(t *testing.T) {
	w := newWorld(t).serve()
	w.dns.set("alias.example.org", "cname:metadata.google.internal", "169.254.169.254")
	s := w.admit(1, open)
	if status, _ := s.get("http://alias.example.org/"); status != 403 {
		t.Errorf("status %d", status)
	}
	if d := w.lastDenial(); d.Host != "alias.example.org" || !strings.Contains(d.Reason, "metadata") {
		t.Errorf("%+v", d)
	}
}

func TestOwnAddressesAndThoseOfTheSiteAreRefused(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Refuse = []netip.Prefix{netip.MustParsePrefix("93.184.216.0/24")} }).serve()
	w.dns.set("site.example.org", publicIP)
	w.dns.set("site6.example.org", "64:ff9b::93.184.216.34")
	w.dns.set("self.example.org", "8.8.4.4")
	w.proxy.own.read = time.Now().Add(time.Hour)
	w.proxy.own.addrs = map[netip.Addr]bool{netip.MustParseAddr("8.8.4.4"): true}
	s := w.admit(1, open)
	for _, name := range []string{"site.example.org", "site6.example.org", "self.example.org"} {
		if status, _ := s.get("http://" + name + "/"); status != 403 {
			t.Errorf("%s: %d", name, status)
		}
	}
}

func TestOwnAddressesAreRead(t *testing.T) {
	var own ownAddresses
	if !own.contains(netip.MustParseAddr("127.0.0.1")) {
		t.Error("the loopback address is not this host's")
	}
	if own.contains(netip.MustParseAddr(publicIP)) {
		t.Error("an address of others is this host's")
	}
}

// Without the hook of the tests: nothing on loopback, nor anything that a
// resolver calls public but that is dialled elsewhere.
func TestLoopbackIsNeverDialled(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	p, err := New(Options{Resolver: answers{netip.MustParseAddr("127.0.0.1")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Admit(netip.MustParseAddr("127.0.1.1"), "s", only("trap.example.org:"+port(listener))); err != nil {
		t.Fatal(err)
	}
	target, err := parseTarget("trap.example.org:"+port(listener), 0)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := p.dial(context.Background(), p.lookup(netip.MustParseAddr("127.0.1.1")), target); err == nil {
		t.Errorf("connected to %v", out.RemoteAddr())
	}
}

// The host's search domains must not make another name of one that is listed.
func TestNamesAreResolvedAsTheyAre(t *testing.T) {
	w := newWorld(t)
	var asked []string
	w.proxy.resolver = resolverFunc(func(host string) []netip.Addr {
		asked = append(asked, host)
		return nil
	})
	w.serve()
	if status, _ := w.admit(1, only("data.example.org")).get("http://DATA.example.org/"); status != 502 {
		t.Errorf("status %d", status)
	}
	if len(asked) != 1 || asked[0] != "data.example.org." {
		t.Errorf("asked for %q", asked)
	}
}

type resolverFunc func(host string) []netip.Addr

func (f resolverFunc) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	return f(host), nil
}

// answers resolves every name to the same addresses.
type answers []netip.Addr

func (a answers) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) { return a, nil }

func port(l net.Listener) string {
	_, p, _ := net.SplitHostPort(l.Addr().String())
	return p
}

func TestMirrorAloneMayBePrivate(t *testing.T) {
	w := newWorld(t).serve()
	w.plainHost("devpi", "10.1.2.3", say("index"))
	s := w.admit(1, only(index))
	for what, policy := range map[string]string{"by name": "http://devpi/simple", "by address": "http://10.1.2.3/simple"} {
		if err := w.proxy.Admit(s.addr, "sandbox-1", packagesFrom(policy)); err != nil {
			t.Fatal(err)
		}
		host := strings.TrimSuffix(strings.TrimPrefix(policy, "http://"), "/simple")
		if status, body := s.get(policy); status != 200 || body != "index" {
			t.Errorf("%s: %d %s", what, status, body)
		}
		if status, _ := s.get("http://" + host + ":8080/"); status != 403 {
			t.Errorf("%s, other port: %d", what, status)
		}
	}
	w.dns.set("other.example.org", "10.1.2.3")
	if status, _ := s.get("http://other.example.org/"); status != 403 {
		t.Errorf("another name of the mirror's address: %d", status)
	}
	w.dns.set("devpi", "169.254.169.254")
	w.proxy.Admit(s.addr, "sandbox-1", packagesFrom("http://devpi/simple"))
	w.proxy.lookup(s.addr).plain.CloseIdleConnections()
	if status, _ := s.get("http://devpi/simple"); status != 403 {
		t.Errorf("mirror that leads to metadata: %d", status)
	}
}
