package egress

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// answerOf is a status and what to tell the client.
type reply struct {
	status int
	title  string // one line
	body   string
}

// refusalOf is the reply to a request that makes no sense.
func refusalOf(status int, what string) reply {
	return reply{status: status, title: what, body: "kernelgw: " + what + ".\n"}
}

// denied is the reply to a request that the policy does not allow.
func (c *client) denied(host, why string) reply {
	return reply{
		status: http.StatusForbidden,
		title:  host + " is not reachable from this sandbox: " + why,
		body: fmt.Sprintf("kernelgw: %s is not reachable from this sandbox.\n\nReason: %s.\nNetwork policy: %s.\n"+
			"Remedy: whoever manages this workspace can allow a public host in its network policy.\n", host, why, c.rules.Load().name),
	}
}

// failed is the reply to a request that was allowed but did not work.
func failed(host, what string) reply {
	return reply{
		status: http.StatusBadGateway, title: "cannot reach " + host + ": " + what,
		body: fmt.Sprintf("kernelgw: cannot reach %s: %s.\n", host, what),
	}
}

// replyTo turns an error of dial into a reply, and counts it when it is a
// denial.
func (p *Proxy) replyTo(c *client, t target, err error) reply {
	if no := (*refusal)(nil); errors.As(err, &no) {
		p.deny(c, t.host, t.port, no.reason)
		return c.denied(t.String(), no.reason)
	}
	if broken := (*failure)(nil); errors.As(err, &broken) {
		return failed(t.String(), broken.what)
	}
	// Not the error's own text: it may quote what was sent.
	return failed(t.String(), "the connection failed")
}

// answer writes a reply. To CONNECT its title is the reason phrase, because it
// is all that most clients show.
func (p *Proxy) answer(w http.ResponseWriter, r *http.Request, a reply) {
	if r.Method != http.MethodConnect {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(a.status)
		io.WriteString(w, a.body)
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	writeReply(conn, a)
	hangUp(conn)
}

func writeReply(conn net.Conn, a reply) {
	conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	w := bufio.NewWriter(conn)
	fmt.Fprintf(w, "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		a.status, printable(a.title), len(a.body), a.body)
	w.Flush()
}

// hangUp closes a connection so that what was written last arrives: a close
// with unread bytes would be a reset.
func hangUp(conn net.Conn) {
	defer conn.Close()
	in, ok := conn.(*inbound)
	if !ok {
		return
	}
	if half, ok := in.Conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
		conn.SetReadDeadline(time.Now().Add(time.Second))
		io.Copy(io.Discard, io.LimitReader(conn, 64<<10))
	}
}
