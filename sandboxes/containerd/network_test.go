package containerd_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/netpolicy"
)

// plainNetwork makes network namespaces with a pair of links and no rules. It
// keeps all in dir, one directory a slot, so that another process finds it.
type plainNetwork struct{ dir string }

var netLock sync.Mutex

func (n plainNetwork) Acquire(_ context.Context, id string, _ sandboxes.NetworkPolicy) (netpolicy.Slot, error) {
	netLock.Lock()
	defer netLock.Unlock()
	for i := 1; i < 4096; i++ {
		dir := filepath.Join(n.dir, strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) {
			continue
		} else if err != nil {
			return netpolicy.Slot{}, err
		}
		if err := os.WriteFile(filepath.Join(dir, "of"), []byte(id), 0o600); err != nil {
			return netpolicy.Slot{}, err
		}
		return plainSlot(dir, i, id)
	}
	return netpolicy.Slot{}, errors.New("no address is free")
}

func plainSlot(dir string, i int, id string) (netpolicy.Slot, error) {
	host, inside := fmt.Sprintf("kt%d", i), fmt.Sprintf("kt%dp", i)
	gateway, address := plainAddresses(i)
	path := filepath.Join(dir, "ns")

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := netns.Get()
	if err != nil {
		return netpolicy.Slot{}, err
	}
	defer own.Close()
	made, err := netns.New() // and enters it
	if err != nil {
		return netpolicy.Slot{}, err
	}
	defer made.Close()
	err = os.WriteFile(path, nil, 0o600)
	if err == nil {
		err = unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
	}
	if err = errors.Join(err, netns.Set(own)); err != nil {
		return netpolicy.Slot{}, err
	}
	if err := plainLinks(made, host, inside, gateway, address); err != nil {
		return netpolicy.Slot{}, err
	}
	return netpolicy.Slot{ID: id, Namespace: path, Address: address, Gateway: gateway, Env: []string{"PLAIN_NETWORK=1"}}, nil
}

func plainAddresses(i int) (gateway, address netip.Addr) {
	gateway = netip.AddrFrom4([4]byte{10, 99, byte(i / 64), byte(i % 64 * 4)}).Next()
	return gateway, gateway.Next()
}

func plainLinks(ns netns.NsHandle, host, inside string, gateway, address netip.Addr) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = host
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: inside, PeerNamespace: netlink.NsFd(ns)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("veth: %w", err)
	}
	link, err := netlink.LinkByName(host)
	if err != nil {
		return err
	}
	net30 := func(a netip.Addr) *netlink.Addr {
		return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(30, 32)}}
	}
	if err := errors.Join(netlink.AddrAdd(link, net30(gateway)), netlink.LinkSetUp(link)); err != nil {
		return err
	}
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	for _, name := range []string{"lo", inside} {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		if err := h.LinkSetUp(link); err != nil {
			return err
		}
		if name == inside {
			if err := h.AddrAdd(link, net30(address)); err != nil {
				return err
			}
		}
	}
	return h.RouteAdd(&netlink.Route{Gw: gateway.AsSlice()})
}

func (n plainNetwork) Release(_ context.Context, id string) error {
	netLock.Lock()
	defer netLock.Unlock()
	entries, err := os.ReadDir(n.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := filepath.Join(n.dir, e.Name())
		of, err := os.ReadFile(filepath.Join(dir, "of"))
		if err != nil || string(of) != id {
			continue
		}
		if link, err := netlink.LinkByName("kt" + e.Name()); err == nil {
			if err := netlink.LinkDel(link); err != nil {
				return err
			}
		}
		for unix.Unmount(filepath.Join(dir, "ns"), unix.MNT_DETACH) == nil { //nolint:revive // until it fails: as often as it was mounted
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

func (n plainNetwork) SetPolicy(context.Context, string, sandboxes.NetworkPolicy) error { return nil }

// slot is the one of a sandbox.
func (n plainNetwork) slot(id string) (netpolicy.Slot, error) {
	entries, err := os.ReadDir(n.dir)
	if err != nil {
		return netpolicy.Slot{}, err
	}
	for _, e := range entries {
		of, _ := os.ReadFile(filepath.Join(n.dir, e.Name(), "of"))
		i, err := strconv.Atoi(e.Name())
		if string(of) == id && err == nil {
			gateway, address := plainAddresses(i)
			return netpolicy.Slot{ID: id, Namespace: filepath.Join(n.dir, e.Name(), "ns"), Address: address, Gateway: gateway}, nil
		}
	}
	return netpolicy.Slot{}, fs.ErrNotExist
}

// List is empty: several drivers share the network, and would release each
// other's slots.
func (n plainNetwork) List() []netpolicy.Slot { return nil }

// ownedNetwork is one that a single driver has for itself.
type ownedNetwork struct{ plainNetwork }

func (n ownedNetwork) List() []netpolicy.Slot {
	var slots []netpolicy.Slot
	for _, id := range n.left() {
		slots = append(slots, netpolicy.Slot{ID: id})
	}
	return slots
}

// left lists the slots that are not released.
func (n plainNetwork) left() []string {
	entries, _ := os.ReadDir(n.dir)
	var left []string
	for _, e := range entries {
		of, _ := os.ReadFile(filepath.Join(n.dir, e.Name(), "of"))
		left = append(left, strings.TrimSpace(string(of)))
	}
	return left
}
