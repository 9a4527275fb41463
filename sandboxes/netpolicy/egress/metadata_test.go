package egress

import (
	"fmt"
	"testing"
)

// Every way of writing 169.254.169.254 and its like that some resolver or URL
// parser takes for it, under the widest policy.
var metadataEncodings = []string{
	"169.254.169.254", "169.254.169.254.", "2852039166", "0xa9fea9fe", "0xA9.0xFE.0xA9.0xFE", "0251.0376.0251.0376", "025177524776",
	"169.254.43518", "169.16689662", "0xa9.254.0251.254", "169.254.169.254.xip.internal", "１６９.２５４.１６９.２５４", "169。254。169。254", "①⑥⑨.②⑤④.①⑥⑨.②⑤④",
	"[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[0:0:0:0:0:ffff:a9fe:a9fe]", "[::169.254.169.254]", "[64:ff9b::169.254.169.254]", "[64:ff9b::a9fe:a9fe]",
	"[64:ff9b:1::a9fe:a9fe]", "[2002:a9fe:a9fe::1]", "[fd00:ec2::254]", "[fe80::a9fe:a9fe%25eth0]", "[fe80::a9fe:a9fe%eth0]", "[fe80::1]",
	"metadata.google.internal", "metadata.google.internal.", "METADATA.GOOGLE.INTERNAL", "metadata", "instance-data",
	"169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192",
	"0.0.0.0", "0", "[::]", "127.0.0.1", "127.1", "0x7f.1", "017700000001", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "localhost", "LocalHost.", "a.localhost",
	"10.0.0.1", "172.16.0.1", "192.168.0.1", "[fc00::1]", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "100.64.0.1",
	"user@169.254.169.254", "example.org@169.254.169.254", "example.org:80@169.254.169.254", "169.254.169.254#.example.org", "169.254.169.254\\.example.org",
}

func TestMetadataAddressesInEveryEncoding(t *testing.T) {
	w := newWorld(t).serve()
	w.dns.set("metadata.google.internal", "169.254.169.254")
	w.dns.set("169.254.169.254.xip.internal", "169.254.169.254")
	w.dns.set("localhost", "127.0.0.1")
	s := w.admit(1, open)
	for _, host := range metadataEncodings {
		for _, request := range []string{
			"GET http://%s/latest/meta-data/ HTTP/1.1\r\nHost: %[1]s\r\n\r\n",
			"PUT http://%s/latest/api/token HTTP/1.1\r\nHost: %[1]s\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\n\r\n",
			"GET http://%s/metadata/instance HTTP/1.1\r\nHost: example.org\r\nMetadata: true\r\n\r\n",
			"CONNECT %s:80 HTTP/1.1\r\nHost: %[1]s:80\r\n\r\n",
			"CONNECT %s:443 HTTP/1.1\r\nHost: %[1]s:443\r\n\r\n",
		} {
			conn, response := s.say(fmt.Sprintf(request, host))
			if response == nil || response.StatusCode != 400 && response.StatusCode != 403 {
				t.Errorf("%s: %v", fmt.Sprintf(request, host), response)
			}
			conn.Close()
		}
	}
	if n := w.dials(); n != 0 {
		t.Errorf("%d of them were dialled", n)
	}
	if u := w.proxy.Usage(s.addr); u.Denials < uint64(len(metadataEncodings)) || u.Connections != 0 {
		t.Errorf("usage %+v", u)
	}
}

// Names of the special kind are not even asked for.
func TestNamesOfPrivateNetworksAreNotResolved(t *testing.T) {
	w := newWorld(t).serve()
	s := w.admit(1, open)
	for _, name := range []string{"metadata.google.internal", "redis", "printer.local", "kubernetes.default.svc.cluster.local"} {
		w.dns.set(name, publicIP)
		if status, _ := s.get("http://" + name + "/"); status != 403 {
			t.Errorf("%s: %d", name, status)
		}
		if n := w.dns.questions(name); n != 0 {
			t.Errorf("%s was resolved", name)
		}
	}
}

func TestNameThatLeadsToMetadata(t *testing.T) {
	w := newWorld(t).serve()
	s := w.admit(1, only("*.example.org", "example.org"))
	for _, answer := range []string{"169.254.169.254", "10.1.2.3", "127.0.0.1", "0.0.0.0", "::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "fd00:ec2::254", "168.63.129.16"} {
		w.dns.set("trap.example.org", answer)
		if status, body := s.get("http://trap.example.org/"); status != 403 {
			t.Errorf("%s over HTTP: %d %s", answer, status, body)
		}
		if status, body := s.get("https://trap.example.org/"); status != 0 {
			t.Errorf("%s over TLS: %d %s", answer, status, body)
		}
	}
	if w.dials() != 0 {
		t.Errorf("dialled %v", w.dialled)
	}
}
