package containerd

import "net/netip"

// Slot is a network namespace that is ready for a sandbox.
type Slot struct {
	ID        string
	Namespace string // path of the network namespace
	Address   netip.Addr
	Gateway   netip.Addr
	Env       []string
	Authority []byte
}
