package netpolicy

import (
	"errors"
	"os"
	"time"

	mdnetlink "github.com/mdlayher/netlink"
)

// audit tells Options.Audit of refused packets until the connection is closed.
// The packet filter reports only a few per second of each sandbox.
func (n *Network) audit(reports *mdnetlink.Conn) {
	for {
		messages, err := reports.Receive()
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			n.mu.Lock()
			closed := n.closed
			n.mu.Unlock()
			if closed {
				return
			}
			n.log.Error("reports of refused packets were lost", "error", err)
			continue
		}
		for _, m := range messages {
			if r, ok := parseReport(m); ok {
				n.options.Audit(n.denial(r))
			}
		}
	}
}

// denial says whose packet was refused.
func (n *Network) denial(r report) Denial {
	p := parsePacket(r.family, r.packet)
	n.mu.Lock()
	defer n.mu.Unlock()
	id := n.byIndex[r.in]
	if id == "" {
		id = n.byIndex[r.out]
	}
	return Denial{ID: id, Reason: r.reason, Protocol: p.protocol, Source: p.source, Destination: p.destination, At: time.Now()}
}
