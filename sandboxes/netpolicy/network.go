package netpolicy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	mdnetlink "github.com/mdlayher/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/netpolicy/egress"
)

// Network gives slots to sandboxes. Its methods are safe for concurrent use.
type Network struct {
	// set at construction
	options  Options
	log      *slog.Logger
	state    state
	identity identity
	host     netns.NsHandle
	links    *links
	filter   *filter
	proxy    *egress.Proxy
	wanted   chan struct{} // a ready namespace was taken
	stop     context.CancelFunc
	running  sync.WaitGroup // goroutines
	callers  sync.WaitGroup // of methods that use the host; added to under mu
	sources  []io.Closer    // what the goroutines read from
	held     []io.Closer    // to be closed at the end, the last one first

	// step is told what comes next, before each change to the host. Tests die there.
	step func(string)

	mu sync.Mutex

	// guarded by mu
	closed  bool
	slots   map[string]*slot // of sandboxes, by id
	byIndex map[int]string   // ids of sandboxes, by the index of their link
	taken   map[number]bool  // numbers of which something may be there
	rested  []rest           // numbers that were used just now, oldest first
	next    number
	ready   []number
}

// slot is a sandbox's slot.
type slot struct {
	mu sync.Mutex // held during a change

	// set at construction
	id string

	// guarded by mu
	number  number // 0 while there is none, and when all is gone
	index   int    // of the link
	policy  sandboxes.NetworkPolicy
	trusted *egress.Authority // nil when there is none
	ending  bool              // is not given any more, only removed
	earlier map[Reason]uint64 // counted before the rules were made anew
}

// Open makes a network, or adopts the one whose state directory it is: its
// slots keep their connections to agents, their policies and counters. What a
// process that was killed has left half done is removed.
func Open(o Options) (*Network, error) {
	host, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("cannot open the host's network namespace: %w", err)
	}
	return open(o, host, func(string) {})
}

// open makes a network on a host that is a network namespace, which it closes
// in the end.
func open(o Options, host netns.NsHandle, step func(string)) (n *Network, err error) {
	n = &Network{
		host: host, step: step, wanted: make(chan struct{}, 1), stop: func() {},
		slots: map[string]*slot{}, byIndex: map[int]string{}, taken: map[number]bool{},
		held: []io.Closer{closer(func() { _ = host.Close() })},
	}
	if n.options, err = o.complete(); err == nil {
		n.log = n.options.Log
		err = n.claim()
	}
	if err == nil {
		if err = n.start(); err != nil && len(n.slots) == 0 {
			_ = n.removeRest()
		}
	}
	if err != nil {
		n.letGo()
		return nil, fmt.Errorf("cannot open the sandboxes' network: %w", err)
	}
	return n, nil
}

type closer func()

func (c closer) Close() error { c(); return nil }

// claim makes this process the only one with this state directory, and with
// this name on this host.
func (n *Network) claim() (err error) {
	if n.state, err = openState(n.options.StateDir); err != nil {
		return err
	}
	lock, err := n.state.lock()
	if err != nil {
		return err
	}
	n.held = append(n.held, lock)
	if err := n.state.tidy(); err != nil {
		return err
	}
	if err := n.identify(); err != nil {
		return err
	}
	name, err := lockName(n.host, n.identity.Name)
	if err != nil {
		return err
	}
	n.held = append(n.held, name)
	return nil
}

// identify finds out what this network is called. It can change its name and
// subnet when no sandbox is in it.
func (n *Network) identify() error {
	wanted := plan{n.options.Name, n.options.Subnet}
	i, known, err := n.state.identity()
	if err != nil {
		return err
	}
	if known && i.plan != wanted {
		n.identity = i
		if err := n.connect(); err != nil {
			return err
		}
		records, err := n.state.records()
		if err != nil {
			return err
		}
		there, _, err := n.ownLinks()
		if err != nil {
			return err
		}
		for number, r := range records {
			// Records outlive a restart of the host, and sandboxes do not.
			if r.ID != "" && there[number] != nil && pinned(n.state.pin(number)) {
				return fmt.Errorf("sandboxes run in network %s with subnet %s: end them before its name or subnet is changed", i.Name, i.Subnet)
			}
		}
		if err := errors.Join(n.sweep(), n.removeRest()); err != nil {
			return err
		}
		known = false
	}
	if !known {
		if i, err = n.state.identify(wanted); err != nil {
			return err
		}
	}
	n.identity = i
	// Anywhere: the numbers that the last process used just now are not known.
	n.next = rand.N(i.last())
	return n.connect()
}

// listen listens on the host. It waits a little for an address that is in use.
func (n *Network) listen(address string) (listener net.Listener, err error) {
	err = inside(n.host, func() error {
		for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			listener, err = net.Listen("tcp4", address)
			if !errors.Is(err, unix.EADDRINUSE) || time.Now().After(end) {
				return err
			}
		}
	})
	return listener, err
}

// connect opens ways to the kernel, to speak of what has the present identity.
func (n *Network) connect() (err error) {
	if n.links, err = newLinks(n.identity.plan, n.host); err != nil {
		return err
	}
	n.links.rate = n.options.Bandwidth
	n.held = append(n.held, closer(n.links.close))
	n.filter = newFilter(n.identity.plan, n.host)
	n.held = append(n.held, closer(n.filter.close))
	return nil
}

// start finds what there is, makes the rest, and begins to serve.
func (n *Network) start() (err error) {
	p := n.identity.plan
	ours, err := n.links.owns(n.identity.Owner)
	if err == nil && !ours {
		err = n.links.checkSubnet()
	}
	if err == nil {
		// Before anything is made: where the kernel has no nf_tables, what is made
		// would stay, because the rules go before the link.
		_, err = n.filter.denied()
	}
	if err != nil {
		return err
	}
	n.step("make the proxy's link")
	if err := n.links.addProxy(n.identity.Owner); err != nil {
		return err
	}
	reports, group, err := listenNFLOG(n.host, p.Name)
	if err != nil {
		return err
	}
	n.held = append(n.held, reports)
	n.filter.group, n.filter.rate = group, n.options.ConnectionRate
	if n.proxy, err = egress.New(n.options.Egress); err != nil {
		return err
	}
	if err := n.adopt(); err != nil {
		return err
	}
	changes, err := n.filter.watch()
	if err != nil {
		return err
	}
	n.held = append(n.held, changes)
	listener, err := n.listen(netip.AddrPortFrom(p.proxy(), ProxyPort).String())
	if err != nil {
		return fmt.Errorf("cannot listen for the egress proxy: %w", err)
	}
	n.sources = []io.Closer{reports, changes, listener}
	n.serve(reports, changes, listener)
	return nil
}

// serve starts the goroutines, which end when they are told to stop and what
// they read from is closed.
func (n *Network) serve(reports, changes *mdnetlink.Conn, listener net.Listener) {
	ctx, stop := context.WithCancel(context.Background())
	n.stop = stop
	n.running.Go(func() {
		if err := n.proxy.Serve(ctx, listener); err != nil {
			n.log.Error("egress proxy ended", "error", err)
		}
	})
	n.running.Go(func() { n.audit(reports) })
	n.running.Go(func() { n.guard(ctx, changes) })
	n.running.Go(func() { n.keepReady(ctx) })
}

// Close ends the proxy and lets go of everything but the slots of sandboxes:
// those stay as they are, for a Network to come, and are without a proxy until
// then. When there is no sandbox, nothing is left.
func (n *Network) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	n.mu.Unlock()
	n.callers.Wait()
	n.stop()
	for _, s := range n.sources {
		_ = s.Close()
	}
	n.running.Wait()

	n.mu.Lock()
	ready, kept := n.ready, len(n.slots)
	n.ready = nil
	n.mu.Unlock()
	var err error
	for _, number := range ready {
		err = errors.Join(err, n.demolish(number))
	}
	if kept == 0 && err == nil {
		err = n.removeRest()
	}
	n.letGo()
	return err
}

// enter begins something that Close has to wait for.
func (n *Network) enter() (leave func(), err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errClosed
	}
	n.callers.Add(1)
	return n.callers.Done, nil
}

func (n *Network) letGo() {
	for _, c := range slices.Backward(n.held) {
		_ = c.Close()
	}
}

// removeRest removes what belongs to no slot.
func (n *Network) removeRest() error {
	ours, err := n.links.owns(n.identity.Owner)
	if err != nil || !ours {
		return err
	}
	n.step("remove the rules")
	if err := n.filter.remove(); err != nil {
		return err
	}
	n.step("remove the proxy's link")
	return n.links.remove(n.identity.proxyLink())
}

var errClosed = fmt.Errorf("cannot use the sandboxes' network: %w", os.ErrClosed)
