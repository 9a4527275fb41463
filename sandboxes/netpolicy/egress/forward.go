package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"
)

// forward handles a request with an http:// URL. Secrets are no part of it.
func (s *server) forward(w http.ResponseWriter, r *http.Request, in *inbound) {
	p, c := s.proxy, in.client
	t, err := parseTarget(r.URL.Host, 80)
	if err != nil || r.URL.User != nil {
		p.deny(c, r.URL.Host, 0, "the URL does not name a host")
		p.answer(w, r, refusalOf(http.StatusBadRequest, "the URL must name a host, without a user name"))
		return
	}
	if why := c.rules.Load().deny(t); why != "" {
		p.answer(w, r, p.replyTo(c, t, &refusal{why}))
		return
	}
	p.pass(w, r, exchange{client: c, target: t, scheme: "http", transport: c.plain})
}

// serveInner handles a request of a client whose TLS ended here: it has, or
// had, secrets for the host.
func (s *server) serveInner(w http.ResponseWriter, r *http.Request) {
	if !s.begin() {
		return
	}
	defer s.handlers.Done()
	conn := r.Context().Value(interceptedKey{}).(*intercepted)
	p, c, t := s.proxy, conn.client, conn.target
	if said, err := parseTarget(r.Host, 443); err != nil || said != t || r.URL.User != nil || r.Method == http.MethodConnect {
		p.deny(c, r.Host, 0, "the Host header names another host than the connection is for: "+t.String())
		p.answer(w, r, refusalOf(http.StatusMisdirectedRequest, "the Host header must name the host of the connection"))
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
	p.pass(w, r, exchange{client: c, target: t, scheme: "https", transport: c.verified, secrets: newSubstitution(secrets)})
}

// exchange is one request on its way to a host and back.
type exchange struct {
	client    *client
	target    target
	scheme    string
	transport *http.Transport
	secrets   substitution
}

// pass sends a request to its target and the response back. The library
// re-parses and re-writes both, drops what is for one hop, and passes on
// upgrades, of which only WebSockets are let through: another protocol (h2c)
// could carry requests to other hosts unseen.
func (p *Proxy) pass(w http.ResponseWriter, r *http.Request, e exchange) {
	if r.Method == http.MethodTrace || r.Method == "TRACK" {
		// A host would send back the headers as it got them.
		p.answer(w, r, refusalOf(http.StatusMethodNotAllowed, r.Method+" is not passed on"))
		return
	}
	if !e.secrets.fits(r.Header) {
		p.answer(w, r, refusalOf(http.StatusRequestHeaderFieldsTooLarge, "the headers are too large with the secrets in them"))
		return
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		r.Header.Del("Upgrade")
	}
	proxy := httputil.ReverseProxy{
		Transport:  e.transport,
		BufferPool: &buffers,
		ErrorLog:   log.New(io.Discard, "", 0), // it would quote foreign bytes
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme = e.scheme
			pr.Out.URL.Host = e.target.authority(e.scheme)
			pr.Out.Host = pr.Out.URL.Host
			pr.Out.URL.RawQuery = pr.In.URL.RawQuery // as it came
			e.secrets.put(pr.Out.Header)
		},
		ModifyResponse: func(response *http.Response) error {
			e.secrets.take(response.Header)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			p.answer(w, r, p.replyTo(e.client, e.target, tlsFailure(err)))
		},
	}
	proxy.ServeHTTP(w, r)
}

// tlsFailure gives errors of verification a text for the client.
func tlsFailure(err error) error {
	if bad := (*tls.CertificateVerificationError)(nil); errors.As(err, &bad) {
		return &failure{"its certificate is not valid for it or not from a trusted authority"}
	}
	return err
}

func (p *Proxy) newTransport(dial func(ctx context.Context, network, address string) (net.Conn, error)) *http.Transport {
	return &http.Transport{
		Proxy:       nil, // never the gateway's own environment
		DialContext: dial,
		// The client gets what the host sent, not what we unpacked.
		DisableCompression:     true,
		MaxIdleConns:           16,
		MaxIdleConnsPerHost:    4,
		MaxConnsPerHost:        p.options.Connections,
		IdleConnTimeout:        30 * time.Second,
		TLSHandshakeTimeout:    p.limits.dial,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		ReadBufferSize:         16 << 10,
		WriteBufferSize:        16 << 10,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerConnection: 1 << 20, MaxReceiveBufferPerStream: 512 << 10,
		},
	}
}

func upstreamTLS(roots *x509.CertPool) *tls.Config {
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// authority is the target as URLs and Host headers of a scheme have it: without
// the standard port.
func (t target) authority(scheme string) string {
	if scheme == "http" && t.port == 80 || scheme == "https" && t.port == 443 {
		if t.addr.Is6() {
			return "[" + t.host + "]"
		}
		return t.host
	}
	return t.String()
}
