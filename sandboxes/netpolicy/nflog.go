package netpolicy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"

	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The parts of Linux's nfnetlink_log.h that are needed.
const (
	nflogPacket       = 0 // message types
	nflogConfig       = 1
	nflogConfigCmd    = 1 // attributes of a configuration
	nflogConfigMode   = 2
	nflogConfigWait   = 4
	nflogBind         = 1 // values of nflogConfigCmd
	nflogCopyPacket   = 2 // a value of nflogConfigMode
	nflogInIndex      = 4 // attributes of a packet
	nflogOutIndex     = 5
	nflogPayload      = 9
	nflogPrefix       = 10
	nfHeaderBytes     = 4
	nflogSubsystem    = unix.NFNL_SUBSYS_ULOG << 8
	nflogWaitHundreds = 5
)

// report is a packet as the packet filter reports it.
type report struct {
	reason  Reason
	in, out int  // indices of links; 0 when there is none
	family  byte // as in NFPROTO_
	packet  []byte
}

// listenNFLOG binds one of the groups to which packets are reported, which
// nobody else may have, and returns its number.
func listenNFLOG(host netns.NsHandle, name string) (*netlink.Conn, uint16, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(host)})
	if err != nil {
		return nil, 0, fmt.Errorf("cannot talk to the kernel about refused packets: %w", err)
	}
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(name))
	group := uint16(hash.Sum32())
	for range 100 {
		if err = bindNFLOG(conn, group); err == nil || !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EPERM) {
			break
		}
		group++
	}
	if err == nil {
		// What does not fit is lost, and counted all the same.
		err = errors.Join(conn.SetOption(netlink.NoENOBUFS, true), conn.SetReadBuffer(1<<20))
	}
	if err != nil {
		_ = conn.Close()
		return nil, 0, fmt.Errorf("cannot have refused packets reported: %w", err)
	}
	return conn, group, nil
}

func bindNFLOG(conn *netlink.Conn, group uint16) error {
	mode := binary.BigEndian.AppendUint32(nil, loggedBytes)
	for _, a := range []netlink.Attribute{
		{Type: nflogConfigCmd, Data: []byte{nflogBind}},
		{Type: nflogConfigMode, Data: append(mode, nflogCopyPacket, 0)},
		{Type: nflogConfigWait, Data: binary.BigEndian.AppendUint32(nil, nflogWaitHundreds)},
	} {
		attributes, err := netlink.MarshalAttributes([]netlink.Attribute{a})
		if err != nil {
			return err
		}
		_, err = conn.Execute(netlink.Message{
			Header: netlink.Header{Type: nflogSubsystem | nflogConfig, Flags: netlink.Request | netlink.Acknowledge},
			Data:   append([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, byte(group >> 8), byte(group)}, attributes...),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// parseReport reads one message of the group. It is false for what is no packet
// of ours.
func parseReport(m netlink.Message) (report, bool) {
	if m.Header.Type != nflogSubsystem|nflogPacket || len(m.Data) < nfHeaderBytes {
		return report{}, false
	}
	r := report{family: m.Data[0]}
	attributes, err := netlink.NewAttributeDecoder(m.Data[nfHeaderBytes:])
	if err != nil {
		return report{}, false
	}
	attributes.ByteOrder = binary.BigEndian
	for attributes.Next() {
		switch attributes.Type() {
		case nflogInIndex:
			r.in = int(attributes.Uint32())
		case nflogOutIndex:
			r.out = int(attributes.Uint32())
		case nflogPrefix:
			r.reason = Reason(attributes.String())
		case nflogPayload:
			r.packet = attributes.Bytes()
		}
	}
	return r, attributes.Err() == nil && r.reason != ""
}
