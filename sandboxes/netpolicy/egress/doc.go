// Package egress is the only way out of a sandbox: an HTTP proxy that lets each
// client reach the hosts that its policy names, at public addresses, over HTTP
// and TLS, and nothing else. Names are resolved here, every address is checked,
// and what was checked is what is dialled. Where a client has a secret for a
// host, the proxy ends TLS itself and puts the secret's value in the place of
// its placeholder in request headers, so that the value is never inside.
//
// What it cannot see: requests inside of TLS that it does not end. A host that
// the policy names may serve other names behind the same certificate, pass
// requests on, answer DNS over HTTPS, or keep what it is sent; and a host with a
// secret may send the value back in a body. A name on the list is trusted with
// that, which is why the lists are short.
//
// It knows HTTP, TLS, policies and addresses. It refuses to know namespaces,
// firewalls, drivers and the gateway: a client is a source address that
// somebody has admitted.
package egress
