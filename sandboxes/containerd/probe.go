package containerd

import (
	"cmp"
	"context"
	"fmt"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
)

// handlers are the runtimes of Kata that Probe looks for, as kata-deploy calls
// them.
var handlers = []string{
	"kata-qemu-runtime-rs", "kata-clh-runtime-rs", "kata-dragonball", "kata-qemu", "kata-clh", "kata-fc",
}

// Report is what Probe found.
type Report struct {
	Version string    // of containerd, "" when it does not answer
	Problem string    // why it does not
	Disk    string    // why what a sandbox writes cannot be limited, "" when it can
	Kata    []Handler // the handlers that are installed
}

// Handler is a runtime of Kata.
type Handler struct {
	Name    string
	Version string
	Config  string // "" when the shim chooses
	Problem string // why it cannot be used, "" when it can
}

// Probe looks for containerd at a socket, "" for the usual one, and for Kata. It
// starts and changes nothing.
func Probe(ctx context.Context, address string) Report {
	var r Report
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	address = cmp.Or(address, defaultAddress)
	client, err := containerd.New(address, containerd.WithTimeout(2*time.Second))
	if err == nil {
		defer client.Close()
		var v containerd.Version
		if v, err = client.Version(ctx); err == nil {
			r.Version = v.Version
		}
	}
	if err != nil {
		r.Problem = fmt.Sprintf("no answer at %s: %v", address, trim(err))
	}
	if err := diskProblem(); err != nil {
		r.Disk = err.Error()
	}
	for _, name := range handlers {
		if _, err := kataShim(name[len("kata-"):]); err != nil {
			continue
		}
		h := Handler{Name: name}
		found, err := findRuntime(ctx, name, "")
		if err != nil {
			h.Problem = err.Error()
		}
		if h.Version, h.Config = found.version, found.config; h.Config == "" && err == nil {
			continue // a shim serves many handlers: one without a configuration is not installed
		}
		r.Kata = append(r.Kata, h)
	}
	return r
}
