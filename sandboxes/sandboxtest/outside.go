package sandboxtest

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Outside is a host beyond the egress proxy: a web server on a public address,
// in a network namespace that the test made, so that nothing leaves the machine.
// As a resolver it knows the names of that host and of others that attacks need.
type Outside struct {
	Name string // reachable under a policy that allows it
	// Roots is who signed the certificate of its HTTPS.
	Roots *x509.CertPool
	// A secret for Name that all sandboxes have: requests that hold Placeholder
	// must come with Value.
	Placeholder, Value string

	addr netip.Addr

	mu   sync.Mutex
	got  []string // guarded by mu: Authorization headers that came
	came []string // guarded by mu: connections and requests

	lookups []string // guarded by mu: names that were asked for
}

// Names that Outside resolves. What is bound to an address that no sandbox may
// reach is there for attacks.
const (
	outsideName  = "outside.example.com"
	metadataName = "metadata.example.com"
	mixedName    = "mixed.example.com"
	tunnelName   = "tunnel.example.net" // of somebody who reads what is asked for below it
)

// awayPath is where a host sends clients on to the metadata service.
const awayPath = "/away"

// outsideLink joins the host outside to the namespace of the tests.
const outsideLink = "world"

// NewOutside makes the host, or finds the one that a parent process made. The
// caller's process must be in a network namespace of its own: see OwnNetwork.
func NewOutside(t testing.TB) *Outside {
	t.Helper()
	// Somebody's, but reached by nobody from here.
	o := &Outside{
		Name: outsideName, addr: netip.MustParseAddr("52.0.0.10"), Roots: x509.NewCertPool(),
		Placeholder: "kgw-secret-" + rand.Text(), Value: "value-" + rand.Text(),
	}
	if _, err := netlink.LinkByName(outsideLink); err == nil {
		return o
	}
	listeners, err := o.listen(t)
	if err != nil {
		t.Fatalf("cannot make a host outside: %v", err)
	}
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.note(fmt.Sprintf("%s %s of %s", r.Method, r.URL, r.Host))
		if a := r.Header.Get("Authorization"); a != "" {
			o.mu.Lock()
			o.got = append(o.got, a)
			o.mu.Unlock()
		}
		if r.URL.Path == awayPath {
			http.Redirect(w, r, "http://169.254.169.254/latest/meta-data/", http.StatusFound)
			return
		}
		fmt.Fprintf(w, "hello to %s", r.Host)
	})
	for i, l := range listeners {
		s := httptest.NewUnstartedServer(answer)
		_ = s.Listener.Close()
		s.Listener = l
		s.Config.ConnState = func(c net.Conn, state http.ConnState) {
			if state == http.StateNew {
				o.note("connection to " + c.LocalAddr().String())
			}
		}
		if i == 0 {
			s.Start()
		} else {
			s.StartTLS()
			o.Roots.AddCert(s.Certificate())
		}
		t.Cleanup(s.Close)
	}
	return o
}

func (o *Outside) note(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.came = append(o.came, what)
}

// visits returns the connections and requests that came since it was last asked.
func (o *Outside) visits() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	came := o.came
	o.came = nil
	return came
}

// authorizations returns the Authorization headers that came since it was last
// asked.
func (o *Outside) authorizations() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	got := o.got
	o.got = nil
	return got
}

// asked is how often a name or one below it was asked for.
func (o *Outside) asked(name string) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, l := range o.lookups {
		if strings.HasSuffix("."+strings.TrimSuffix(l, "."), "."+name) {
			n++
		}
	}
	return n
}

// LookupNetIP is what egress.Resolver asks for.
func (o *Outside) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	o.mu.Lock()
	o.lookups = append(o.lookups, host)
	o.mu.Unlock()
	metadata := netip.MustParseAddr("169.254.169.254")
	switch host {
	case outsideName, outsideName + ".":
		return []netip.Addr{o.addr}, nil
	case metadataName, metadataName + ".":
		return []netip.Addr{metadata}, nil
	case mixedName, mixedName + ".":
		return []netip.Addr{o.addr, metadata}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// listen makes a namespace with the address, joined to ours, and listens there
// on ports 80 and 443.
func (o *Outside) listen(t testing.TB) ([]net.Listener, error) {
	own, err := netns.Get()
	if err != nil {
		return nil, err
	}
	defer own.Close()
	var world netns.NsHandle
	var listeners []net.Listener
	err = onOwnThread(func() (err error) {
		if world, err = netns.New(); err != nil { // and enters it
			return err
		}
		link := netlink.NewVeth(netlink.LinkAttrs{Name: outsideLink})
		link.PeerName, link.PeerNamespace = outsideLink, netlink.NsFd(own)
		if err := netlink.LinkAdd(link); err != nil {
			return err
		}
		if err := join(link, o.addr, netip.MustParsePrefix("172.31.255.1/32")); err != nil {
			return err
		}
		for _, port := range []string{"80", "443"} {
			l, err := net.Listen("tcp4", net.JoinHostPort(o.addr.String(), port))
			if err != nil {
				return err
			}
			listeners = append(listeners, l)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	_ = world.Close() // the listeners keep it
	link, err := netlink.LinkByName(outsideLink)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(link); err != nil && !errors.As(err, new(netlink.LinkNotFoundError)) {
			t.Errorf("cannot remove the link to the host outside: %v", err)
		}
	})
	return listeners, join(link, netip.MustParseAddr("172.31.255.1"), netip.PrefixFrom(o.addr, 32))
}

// join gives a link its address and a route to the other end.
func join(link netlink.Link, own netip.Addr, other netip.Prefix) error {
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: prefixNet(netip.PrefixFrom(own, 32))}); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: prefixNet(other), Scope: netlink.SCOPE_LINK, Src: own.AsSlice()})
}

func prefixNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

// onOwnThread runs f on a thread that ends with it, whatever namespace it is in.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocks
		done <- f()
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(10 * time.Second):
		return errors.New("timeout")
	}
}
