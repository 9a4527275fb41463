package egress

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// deny counts a denial and says it to the audit, unless the client has many.
// host is what the client named, understood or not.
func (p *Proxy) deny(c *client, host string, port uint16, reason string) {
	c.denials.Add(1)
	if !c.saying.Allow() {
		c.unsaid.Add(1)
		return
	}
	d := Denial{
		Client: printable(c.name), Reason: printable(reason), Host: printable(host), Port: port,
		At: time.Now(), Unsaid: c.unsaid.Swap(0),
	}
	p.log.Debug("egress denied", "sandbox", d.Client, "host", d.Host, "port", d.Port, "reason", d.Reason)
	if p.options.Audit != nil {
		p.options.Audit(d)
	}
}

// denyStranger is deny for a source address that was not admitted.
func (p *Proxy) denyStranger(addr netip.Addr) {
	p.deny(p.stranger, "", 0, "nobody was admitted with the source address "+addr.String())
}

// printable returns text that is safe in logs, headers and on terminals: ASCII
// without control characters, and not long.
func printable(text string) string {
	const most = 300
	if len(text) > most {
		text = text[:most] + "..."
	}
	if strings.Trim(text, printableASCII) == "" {
		return text
	}
	quoted := strconv.QuoteToASCII(text)
	return quoted[1 : len(quoted)-1]
}

var printableASCII = func() string {
	var b strings.Builder
	for c := byte(' '); c <= '~'; c++ {
		b.WriteByte(c)
	}
	return b.String()
}()
