// Package netpolicytest gives the tests of drivers a network for their
// sandboxes, which reaches sandboxtest's host outside and knows its secret.
package netpolicytest

import (
	"context"
	"testing"

	"kernelgw/sandboxes/netpolicy"
	"kernelgw/sandboxes/netpolicy/egress"
	"kernelgw/sandboxes/sandboxtest"
)

// Open opens the network of a state directory. The caller closes it.
func Open(t testing.TB, dir string, outside *sandboxtest.Outside) *netpolicy.Network {
	t.Helper()
	authority, err := egress.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	secret := egress.Secret{Name: "KEY", Placeholder: outside.Placeholder, Value: outside.Value, Hosts: []string{outside.Name}}
	network, err := netpolicy.Open(netpolicy.Options{
		StateDir: dir, Ready: 1,
		Egress: egress.Options{
			Resolver: outside, Roots: outside.Roots, Authority: authority,
			Secrets: func(context.Context, string) ([]egress.Secret, error) { return []egress.Secret{secret}, nil },
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return network
}

// Denied is how many packets and requests of a sandbox were refused.
func Denied(t testing.TB, n *netpolicy.Network, id string) uint64 {
	t.Helper()
	u, err := n.Usage(id)
	if err != nil {
		t.Fatal(err)
	}
	denied := u.Egress.Denials
	for _, packets := range u.Denied {
		denied += packets
	}
	return denied
}
