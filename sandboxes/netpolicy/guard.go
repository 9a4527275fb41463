package netpolicy

import (
	"context"
	"fmt"
	"time"

	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watch returns a connection on which the kernel tells of changes of the packet
// filter, by whomever.
func (f *filter) watch() (*mdnetlink.Conn, error) {
	conn, err := mdnetlink.Dial(unix.NETLINK_NETFILTER, &mdnetlink.Config{NetNS: int(f.host)})
	if err == nil {
		if err = conn.JoinGroup(unix.NFNLGRP_NFTABLES); err == nil {
			return conn, nil
		}
		_ = conn.Close()
	}
	return nil, fmt.Errorf("cannot watch the packet filter: %w", err)
}

// guard makes the tables again when somebody removes them or rules of theirs, as
// administrators do who load their own rules after "flush ruleset". Meanwhile
// links do not forward, but the host's own ports are open to sandboxes: so it is
// done at once.
func (n *Network) guard(ctx context.Context, changes *mdnetlink.Conn) {
	var seen removals
	for ctx.Err() == nil {
		messages, err := changes.Receive()
		if err == nil && !seen.complete(messages) {
			continue
		}
		// Also after an error, which means that something was not told.
		restored, failed := n.filter.restore()
		switch {
		case ctx.Err() != nil:
			return
		case failed != nil:
			n.log.Error("cannot restore the packet filter: sandboxes may reach ports of the host", "error", failed)
		case restored:
			n.log.Warn("another program had removed the rules for sandboxes from the packet filter; they are back")
		}
		for failed != nil || err != nil {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return
			}
			_, failed = n.filter.restore()
			err = nil
		}
	}
}

// removals remembers whether something was removed, until the end of the
// transaction: each of its changes is told by a message.
type removals bool

// complete reports whether a transaction has ended that removed something.
func (r *removals) complete(messages []mdnetlink.Message) (ended bool) {
	for _, m := range messages {
		if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES {
			continue
		}
		switch m.Header.Type & 0xff {
		case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE:
			*r = true
		case unix.NFT_MSG_NEWGEN:
			ended = ended || bool(*r)
			*r = false
		}
	}
	return ended
}
