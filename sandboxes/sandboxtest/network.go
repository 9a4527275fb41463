package sandboxtest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"kernelgw/sandboxes"
)

// reaching is a cell that tries to reach what it is told to, and prints what
// became of each as a JSON object.
const reaching = `
import json, socket, ssl, time, urllib.request, urllib.error
urls, addresses = json.loads(%q)
lax = ssl.create_default_context()
lax.check_hostname, lax.verify_mode = False, ssl.CERT_NONE
def fetch(url):
    try:
        with urllib.request.urlopen(url, timeout=15, context=lax) as r:
            return f"{r.status} {r.read(100).decode()}"
    except urllib.error.HTTPError as e:
        return f"{e.code}"
    except Exception as e:
        return f"error: {e}"
def dial(host, port, kind):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        s = socket.socket(family, kind)
        s.settimeout(3)
        if kind == socket.SOCK_DGRAM:
            s.sendto(b"?", (host, port))
            return f"got {s.recv(100)!r}"
        s.connect((host, port))
        return "connected"
    except Exception as e:
        return f"error: {e}"
def dial_vsock():
    try:
        s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        s.settimeout(3)
        s.connect((2, 1024))
        return "connected"
    except Exception as e:
        return f"error: {e}"
found = {u: fetch(u) for u in urls}
for kind, host, port in addresses:
    found[f"{kind} {host} {port}"] = dial(host, port, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
def raw(family, kind, proto):
    try:
        socket.socket(family, kind, proto).close()
        return "made"
    except Exception as e:
        return f"error: {e}"
found["raw socket"] = raw(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
found["packet socket"] = raw(socket.AF_PACKET, socket.SOCK_RAW, 0)
found["vsock to the host"] = dial_vsock()
print(json.dumps(found))
`

// address is a target of reaching.
type address struct {
	Kind string // "tcp" or "udp"
	Host string
	Port int
}

// MarshalJSON implements json.Marshaler.
func (a address) MarshalJSON() ([]byte, error) { return json.Marshal([]any{a.Kind, a.Host, a.Port}) }

// reach runs reaching in a kernel.
func (b *bench) reach(agent *client, urls []string, addresses []address) map[string]string {
	b.Helper()
	told, err := json.Marshal([]any{append([]string{}, urls...), append([]address{}, addresses...)})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.ctx, b.h.StartTimeout+time.Minute)
	defer cancel()
	out, err := agent.execute(ctx, fmt.Sprintf(reaching, told))
	if err != nil {
		b.Fatalf("the cell failed: %v\n%s", err, out)
	}
	found := map[string]string{}
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		b.Fatalf("the cell printed %q: %v", out, err)
	}
	return found
}

// testNetwork: a cell reaches what its policy allows, through the proxy, and
// nothing else; and a change of the policy holds at once.
func testNetwork(b *bench) {
	outside := b.h.Outside
	spec := b.spec()
	spec.Network = sandboxes.NetworkPolicy{Egress: sandboxes.EgressNone, Allow: []string{outside.Name, metadataName, mixedName}}
	sb := b.create(spec)
	agent := b.answers(sb)
	other, _ := b.start()

	open := []string{"http://" + outside.Name + "/", "https://" + outside.Name + "/"}
	shut := []string{
		"http://169.254.169.254/latest/meta-data/", "http://2852039166/", "http://0xa9fea9fe/", "http://0251.0376.0251.0376/",
		"http://[::ffff:169.254.169.254]/", "http://[fd00:ec2::254]/", "http://[64:ff9b::a9fe:a9fe]/", "http://metadata.google.internal/",
		"http://" + metadataName + "/", "https://" + metadataName + "/", "http://127.0.0.1.nip.io/", "http://10.0.0.1/", "http://0.0.0.0/",
		"http://" + outside.Name + ":25/", "https://crates.io/", "https://1.1.1.1/dns-query",
	}
	host, portText, err := net.SplitHostPort(other.Agent.Address)
	if err != nil {
		b.Fatal(err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		b.Fatal(err)
	}
	addresses := []address{
		{"tcp", "169.254.169.254", 80},
		{"tcp", "169.254.170.2", 80},
		{"tcp", "100.100.100.200", 80},
		{"tcp", outside.addr.String(), 443},
		{"tcp", "1.1.1.1", 853},
		{"udp", "1.1.1.1", 53},
		{"udp", "8.8.8.8", 443},
		{"tcp", "2606:4700::1111", 443},
		{"tcp", host, port},
		{"tcp", "10.143.0.1", 22},
		{"tcp", "10.143.0.1", 6379},
		{"tcp", "172.31.255.1", 80},
	}
	found := b.reach(agent, append(open, shut...), addresses)
	for what, got := range found {
		switch {
		case slices.Contains(open, what):
			if got != "200 hello to "+outside.Name {
				b.Errorf("%s, which the policy allows: %s", what, got)
			}
		case slices.Contains(shut, what):
			if !strings.HasPrefix(got, "4") && !strings.HasPrefix(got, "5") && !strings.HasPrefix(got, "error: ") {
				b.Errorf("%s: %s", what, got)
			}
		case !strings.HasPrefix(got, "error: "):
			b.Errorf("%s: %s", what, got)
		}
	}
	if len(found) < len(open)+len(shut)+len(addresses) {
		b.Errorf("the cell tried only %d things", len(found))
	}

	if err := b.d.SetNetworkPolicy(b.ctx, spec.ID, sandboxes.NetworkPolicy{Egress: sandboxes.EgressNone}); err != nil {
		b.Fatalf("SetNetworkPolicy: %v", err)
	}
	for what, got := range b.reach(agent, open, nil) {
		if slices.Contains(open, what) && strings.HasPrefix(got, "200") {
			b.Errorf("%s, which the policy allows no more: %s", what, got)
		}
	}
	b.reopen()
	if got := b.reach(agent, open[:1], nil)[open[0]]; strings.HasPrefix(got, "200") {
		b.Errorf("%s is open again for a new Driver: %s", open[0], got)
	}
	if err := b.d.SetNetworkPolicy(b.ctx, spec.ID, spec.Network); err != nil {
		b.Fatalf("SetNetworkPolicy of a new Driver: %v", err)
	}
	if got := b.reach(agent, open[:1], nil)[open[0]]; !strings.HasPrefix(got, "200") {
		b.Errorf("%s, which the policy allows again: %s", open[0], got)
	}
}

// sending is a cell that sends a secret's placeholder to a host, over HTTPS whose
// certificate it checks, as programs inside do, and over HTTP.
const sending = `
import json, urllib.request
name, placeholder = json.loads(%q)
def send(url):
    request = urllib.request.Request(url, headers={"Authorization": "Bearer " + placeholder})
    try:
        with urllib.request.urlopen(request, timeout=15) as r:
            return f"{r.status} {r.read(100).decode()}"
    except Exception as e:
        return f"error: {e}"
seen = [send("https://" + name + "/"), send("http://" + name + "/")]
print(json.dumps(seen))
`

// testSecret: a secret's value reaches its host over TLS, and not another way.
func testSecret(b *bench) {
	outside := b.h.Outside
	spec := b.spec()
	spec.Network = sandboxes.NetworkPolicy{Egress: sandboxes.EgressNone, Allow: []string{outside.Name}}
	agent := b.answers(b.create(spec))
	told, err := json.Marshal([]string{outside.Name, outside.Placeholder})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.ctx, b.h.StartTimeout+time.Minute)
	defer cancel()
	outside.authorizations()
	out, err := agent.execute(ctx, fmt.Sprintf(sending, told))
	if err != nil {
		b.Fatalf("the cell failed: %v\n%s", err, out)
	}
	hello := "200 hello to " + outside.Name
	if want := fmt.Sprintf("[%q, %q]", hello, hello); strings.TrimSpace(out) != want {
		b.Errorf("the cell saw %s, want %s", out, want)
	}
	want := []string{"Bearer " + outside.Value, "Bearer " + outside.Placeholder}
	if got := outside.authorizations(); !slices.Equal(got, want) {
		b.Errorf("the host got %q, want %q", got, want)
	}
}
