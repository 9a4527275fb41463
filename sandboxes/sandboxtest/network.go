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
		"http://169.254.169.254./", "http://" + outside.Name + "@169.254.169.254/", "http://[::]/", "http://c2VjcmV0." + tunnelName + "/",
		"http://c2VjcmV0." + outside.Name + "/", "http://" + outside.Name + awayPath, "https://" + outside.Name + awayPath,
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
	before := b.h.Denied(b.T, b.d, spec.ID)
	found := b.reach(agent, append(open, shut...), addresses)
	// A few do not leave the sandbox: IPv6, what the client itself takes for no URL.
	if denied := b.h.Denied(b.T, b.d, spec.ID) - before; denied < uint64(len(shut)+len(addresses)-4) {
		b.Errorf("of %d requests and %d packets that were refused %d were counted", len(shut), len(addresses), denied)
	}
	if n := outside.asked(tunnelName); n > 0 {
		b.Errorf("a name that no policy allows was looked up %d times: data leave by the name", n)
	}
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

	b.tricks(agent)

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

// tricking is a cell that talks to the proxy by hand, and prints as a JSON object
// what came of each trick: what it got, if it got something.
const tricking = `
import json, os, socket, ssl
name = json.loads(%q)
host, port = os.environ["HTTPS_PROXY"].split("//")[1].rsplit(":", 1)
def talk(request, then=None):
    try:
        with socket.create_connection((host, int(port)), 5) as s:
            s.settimeout(5)
            s.sendall(request.encode())
            answer = s.recv(4096)
            if not answer.startswith((b"HTTP/1.1 2", b"HTTP/1.0 2")):
                return "refused " + answer.split(b"\r\n")[0].decode()
            if then is None:
                return "got " + answer.decode(errors="replace")
            return then(s)
    except Exception as e:
        return f"refused {e}"
def connect(target, then=None):
    return talk(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n", then)
def says(hello):
    def then(s):
        s.sendall(hello)
        got = s.recv(100)
        if got[:1] in (b"", b"\x15"): # the end, or an alert of TLS
            return f"refused {got!r}"
        return f"got {got!r}"
    return then
def names(sni, inner):
    lax = ssl.create_default_context()
    lax.check_hostname, lax.verify_mode = False, ssl.CERT_NONE
    def then(s):
        with lax.wrap_socket(s, server_hostname=sni) as t:
            t.sendall(f"GET / HTTP/1.1\r\nHost: {inner}\r\nConnection: close\r\n\r\n".encode())
            answer = t.recv(4096)
            return "got " + answer.decode(errors="replace") if answer.startswith(b"HTTP/1.1 2") else f"refused {answer[:40]!r}"
    return then
found = {"CONNECT " + t: connect(t) for t in [
    "169.254.169.254:80", "127.0.0.1:22", "[::1]:443", "localhost:443", "10.143.0.1:6379", name + ":22", name + ":25", name + ":0", "a@169.254.169.254:443",
    "0x7f.1:443", name + "@10.0.0.1:443", "metadata.google.internal:443",
]}
found["SSH in a tunnel"] = connect(name + ":443", says(b"SSH-2.0-x\r\n"))
found["HTTP in a tunnel"] = connect(name + ":443", says(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
found["the name of another in TLS"] = connect(name + ":443", names("crates.io", name))
found["no name in TLS"] = connect(name + ":443", names(None, name))
found["a Host of another"] = talk(f"GET http://169.254.169.254/ HTTP/1.1\r\nHost: {name}\r\n\r\n")
found["two Hosts"] = talk(f"GET http://{name}/ HTTP/1.1\r\nHost: {name}\r\nHost: 169.254.169.254\r\n\r\n")
found["another protocol"] = talk(f"GET ftp://{name}/ HTTP/1.1\r\nHost: {name}\r\n\r\n")
found["a path alone"] = talk("GET /api/status HTTP/1.1\r\nHost: localhost:8888\r\n\r\n")
print(json.dumps(found))
`

// tricks tries to get more out of the proxy than the policy names. The proxy answers
// some of that in the host's place, so the host is asked what came.
func (b *bench) tricks(agent *client) {
	b.Helper()
	name, err := json.Marshal(b.h.Outside.Name)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.ctx, b.h.StartTimeout+time.Minute)
	defer cancel()
	b.h.Outside.visits()
	out, err := agent.execute(ctx, fmt.Sprintf(tricking, name))
	found := map[string]string{}
	if err == nil {
		err = json.Unmarshal([]byte(out), &found)
	}
	if err != nil || len(found) < 18 {
		b.Fatalf("the cell printed %q, %v", out, err)
	}
	for trick, got := range found {
		if !strings.HasPrefix(got, "refused") {
			b.Errorf("%s: %s", trick, got)
		}
	}
	if came := b.h.Outside.visits(); len(came) > 0 {
		b.Errorf("of what was refused this got out: %q", came)
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
