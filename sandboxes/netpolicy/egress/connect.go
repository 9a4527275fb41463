package egress

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"time"
)

// connect handles CONNECT: a tunnel in which a client speaks TLS with the host
// that it named, or with us in the place of a host that it has secrets for.
func (s *server) connect(w http.ResponseWriter, r *http.Request, in *inbound) {
	p, c := s.proxy, in.client
	t, err := parseTarget(r.RequestURI, 0)
	if err != nil || t.port == 0 || r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		p.deny(c, r.RequestURI, 0, "CONNECT is not to a host and port")
		p.answer(w, r, refusalOf(http.StatusBadRequest, "CONNECT must name a host and a port, and have no body"))
		return
	}
	if why := c.rules.Load().deny(t); why != "" {
		p.answer(w, r, p.replyTo(c, t, &refusal{why}))
		return
	}
	secrets, err := p.secretsFor(r.Context(), c, t)
	if err != nil {
		p.log.Warn("cannot read secrets for the egress proxy", "sandbox", c.name, "error", err)
		p.answer(w, r, refusalOf(http.StatusServiceUnavailable, "the secrets of this workspace cannot be read now"))
		return
	}
	var out *outbound
	if len(secrets) == 0 {
		if out, err = p.dial(r.Context(), c, t); err != nil {
			p.answer(w, r, p.replyTo(c, t, err))
			return
		}
		defer out.Close()
	}
	_, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	hello, ok := p.openTunnel(in, buffered.Reader, t)
	if !ok {
		return
	}
	if out == nil {
		s.intercept(in, hello, t)
		return
	}
	defer in.Close()
	if _, err := out.Write(hello); err != nil {
		return
	}
	join(in, out)
}

// openTunnel says yes to a CONNECT and returns the first bytes of the client, a
// ClientHello for the target. When they are something else it closes the
// connection and reports false.
func (p *Proxy) openTunnel(in *inbound, buffered *bufio.Reader, t target) (hello []byte, ok bool) {
	if !in.client.bind(in.link, t) {
		in.Close()
		return nil, false
	}
	if _, err := io.WriteString(in, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		in.Close()
		return nil, false
	}
	in.SetReadDeadline(time.Now().Add(p.limits.header))
	early, _ := buffered.Peek(buffered.Buffered())
	ahead := bytes.NewReader(early)
	name, hello, err := readHello(io.MultiReader(ahead, in))
	hello = append(hello, early[len(early)-ahead.Len():]...) // what came with the ClientHello, behind it
	in.SetReadDeadline(time.Time{})
	why := ""
	if err != nil {
		// A client that went away before it said anything is not worth a word.
		if why = errNoHello.Error(); len(hello) == 0 {
			in.Close()
			return nil, false
		}
	} else {
		why = checkHello(name, t)
	}
	if why != "" {
		p.deny(in.client, t.host, t.port, why)
		in.Write(alertDenied)
		hangUp(in)
		return nil, false
	}
	return hello, true
}

// intercepted is a connection of a client whose TLS ends here.
type intercepted struct {
	*inbound
	target target
	first  io.Reader // what was read of it already
}

func (i *intercepted) Read(b []byte) (int, error) {
	if i.first != nil {
		if n, err := i.first.Read(b); err == nil {
			return n, nil
		}
		i.first = nil
	}
	return i.inbound.Read(b)
}

// intercept gives a connection to the inner server, which answers in the name
// of the target.
func (s *server) intercept(in *inbound, hello []byte, t target) {
	conn := &intercepted{inbound: in, target: t, first: bytes.NewReader(hello)}
	config := &tls.Config{
		NextProtos:             []string{"h2", "http/1.1"},
		SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return in.client.authority.Load().leaf(t.host)
		},
	}
	if !s.handed.hand(tls.Server(conn, config)) {
		in.Close()
	}
}
