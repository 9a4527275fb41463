package netpolicy

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Frames for attempts to get past the rules, made by hand as an attacker would.

// ipv4 is a packet with a correct header.
type ipv4 struct {
	source, destination netip.Addr
	protocol            byte
	fragment            uint16 // flags and offset
	options             []byte // of a length that 4 divides
	payload             []byte
}

func (p ipv4) bytes() []byte {
	source, destination := p.source.As4(), p.destination.As4()
	length := 20 + len(p.options)
	b := make([]byte, length, length+len(p.payload))
	b[0] = 4<<4 | byte(length/4)
	binary.BigEndian.PutUint16(b[2:], uint16(length+len(p.payload)))
	binary.BigEndian.PutUint16(b[6:], p.fragment)
	b[8], b[9] = 64, p.protocol
	copy(b[12:], source[:])
	copy(b[16:], destination[:])
	copy(b[20:], p.options)
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, p.payload...)
}

// segment is a TCP segment without data.
func segment(source, destination netip.AddrPort, flags byte) []byte {
	from, to := source.Addr().As4(), destination.Addr().As4()
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, source.Port())
	binary.BigEndian.PutUint16(b[2:], destination.Port())
	b[12], b[13] = 5<<4, flags
	binary.BigEndian.PutUint16(b[14:], 1024)
	pseudo := append(append(from[:], to[:]...), 0, unix.IPPROTO_TCP, 0, byte(len(b)))
	binary.BigEndian.PutUint16(b[16:], checksum(append(pseudo, b...)))
	return b
}

// tcp is a packet with a segment in it.
func tcp(source, destination netip.AddrPort, flags byte) ipv4 {
	return ipv4{
		source: source.Addr(), destination: destination.Addr(),
		protocol: unix.IPPROTO_TCP, payload: segment(source, destination, flags),
	}
}

// checksum is the Internet's, of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// arpReply says to whoever gets it that an address is at a hardware address.
func arpReply(source net.HardwareAddr, says, target netip.Addr) []byte {
	b := append([]byte(ethernetForIPv4), 0, 2)
	b = append(append(b, source...), says.AsSlice()...)
	return append(append(b, hardware(target)...), target.AsSlice()...)
}

// sendFrame sends a frame over the inner link of the namespace that the thread is in.
func sendFrame(destination, source net.HardwareAddr, etherType uint16, payload []byte) error {
	return sendFrames(1, destination, source, etherType, payload)
}

func sendFrames(count int, destination, source net.HardwareAddr, etherType uint16, payload []byte) error {
	link, err := net.InterfaceByName(inner)
	if err != nil {
		return fmt.Errorf("cannot send a frame: %w", err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot send a frame: %w", err)
	}
	defer unix.Close(fd)
	frame := append(append([]byte(nil), destination...), source...)
	frame = append(binary.BigEndian.AppendUint16(frame, etherType), payload...)
	for range count {
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Index}); err != nil {
			return fmt.Errorf("cannot send a frame: %w", err)
		}
	}
	return nil
}
