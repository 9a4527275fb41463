package egress

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// fakeDNS is a DNS server on loopback whose answers may change from one
// question to the next.
type fakeDNS struct {
	conn net.PacketConn

	mu      sync.Mutex
	answers map[string][][]string // per name: the answers to successive questions; the last stays
	asked   []string
}

func newFakeDNS(t testing.TB) *fakeDNS {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &fakeDNS{conn: conn, answers: map[string][][]string{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.serve()
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return d
}

// set gives a name its answer: addresses, or "cname:other.name".
func (d *fakeDNS) set(name string, answer ...string) { d.flip(name, answer) }

// flip gives a name one answer after the other: rebinding.
func (d *fakeDNS) flip(name string, answers ...[]string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answers[name] = answers
}

// questions counts the questions for A records of a name.
func (d *fakeDNS) questions(name string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, asked := range d.asked {
		if asked == name {
			n++
		}
	}
	return n
}

func (d *fakeDNS) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", d.conn.LocalAddr().String())
	}}
}

func (d *fakeDNS) serve() {
	buffer := make([]byte, 4096)
	for {
		n, from, err := d.conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		var query dnsmessage.Message
		if query.Unpack(buffer[:n]) != nil || len(query.Questions) != 1 {
			continue
		}
		reply, err := d.answer(query).Pack()
		if err == nil {
			d.conn.WriteTo(reply, from)
		}
	}
}

func (d *fakeDNS) answer(query dnsmessage.Message) *dnsmessage.Message {
	question := query.Questions[0]
	reply := &dnsmessage.Message{
		Header:    dnsmessage.Header{ID: query.ID, Response: true, RecursionAvailable: true, Authoritative: true},
		Questions: query.Questions,
	}
	name := strings.TrimSuffix(strings.ToLower(question.Name.String()), ".")
	d.mu.Lock()
	defer d.mu.Unlock()
	answers := d.answers[name]
	if len(answers) == 0 {
		reply.RCode = dnsmessage.RCodeNameError
		return reply
	}
	answer := answers[0]
	if question.Type == dnsmessage.TypeA {
		d.asked = append(d.asked, name)
		if len(answers) > 1 {
			d.answers[name] = answers[1:]
		}
	}
	owner := question.Name
	for _, a := range answer {
		if other, ok := strings.CutPrefix(a, "cname:"); ok {
			target := dnsmessage.MustNewName(other + ".")
			reply.Answers = append(reply.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET},
				Body:   &dnsmessage.CNAMEResource{CNAME: target},
			})
			owner = target
			continue
		}
		addr := netip.MustParseAddr(a)
		header := dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET}
		switch {
		case addr.Is4() && question.Type == dnsmessage.TypeA:
			reply.Answers = append(reply.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: addr.As4()}})
		case addr.Is6() && question.Type == dnsmessage.TypeAAAA:
			reply.Answers = append(reply.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
		}
	}
	return reply
}
