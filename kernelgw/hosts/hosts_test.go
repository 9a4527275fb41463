package hosts_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"kernelgw/kernelgw/hosts"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/netpolicy/egress"
)

func TestPatternsAreBroughtToOneForm(t *testing.T) {
	for text, want := range map[string]string{
		"example.org":        "example.org",
		"Example.ORG":        "example.org",
		"example.org.":       "example.org",
		"*.example.org":      "*.example.org",
		"example.org:8443":   "example.org:8443",
		"*.example.org:443":  "*.example.org:443",
		"bücher.example":     "xn--bcher-kva.example",
		"BÜCHER.example":     "xn--bcher-kva.example",
		"xn--bcher-kva.com":  "xn--bcher-kva.com",
		"ｅxample.org":        "example.org",
		"example。org":        "example.org",
		"a.b.c.d.e.org":      "a.b.c.d.e.org",
		"1and1.com":          "1and1.com",
		"*.s3.amazonaws.com": "*.s3.amazonaws.com",
		"co.uk":              "co.uk",
	} {
		p, err := hosts.Parse(text)
		if err != nil || p.String() != want {
			t.Errorf("Parse(%q) = %q, %v, want %q", text, p, err, want)
		}
	}
}

// The forms of threats.md section 3 in which an address or another place hides.
func TestWhatIsNoNameOfAHostIsRefused(t *testing.T) {
	for _, text := range []string{
		"", ".", "..", "*", "*.", "*.*", "*.*.example.org", "a.*.org", "*example.org", "**.example.org", "*.com", "*.org", "*.co.uk", "*.xn--p1ai",
		"169.254.169.254", "169.254.169.254:80", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "127.1", "0x7f.1", "1.2.3.4.", "１２７.0.0.1",
		"169。254。169。254", "example.0x", "example.1", "[::1]", "[::ffff:169.254.169.254]", "::1", "fd00:ec2::254", "fe80::1%eth0",
		"localhost", "redis", "metadata", "com", "metadata.google.internal", "x.localhost", "printer.local", "*.svc.cluster.local", "1.0.0.127.in-addr.arpa", "a.onion",
		"https://example.org", "//example.org", "example.org/", "example.org/path", "example.org?x", "example.org#x", "user@example.org",
		"user:pass@example.org", `example.org\x`, "example .org", " example.org", "example.org ", "example.org\n", "example.org\x00", "exa\tmple.org",
		"example.org:", "example.org:0", "example.org:+80", "example.org:080", "example.org:65536", "example.org:-1", "example.org:80:80", "example.org:８０",
		"example.org:22", "example.org:25", "example.org:53", "example.org:6443x",
		"_dmarc.example.org", "-a.example.org", "a-.example.org", "a..example.org", ".example.org", "example.org..",
		strings.Repeat("a", 64) + ".org", strings.Repeat("a.", 127) + "org", strings.Repeat("é", 2000) + ".org", "example.org,evil.org", "a\u202eb.org", "a\u200db.org",
		"xn--a.org", "xn--.org", "*.xn--bcher-kva", "\xff.org",
	} {
		if p, err := hosts.Parse(text); !errors.Is(err, hosts.ErrInvalid) {
			t.Errorf("Parse(%q) = %q, %v", text, p, err)
		}
	}
}

func TestNamesBelowAHostingCompanyAreShared(t *testing.T) {
	for text, want := range map[string]bool{
		"*.github.io": true, "*.example.github.io": false, "example.github.io": false, "*.example.org": false, "github.io": false,
	} {
		if p, err := hosts.Parse(text); err != nil || p.Shared() != want {
			t.Errorf("Parse(%q).Shared() = %v, %v, want %v", text, p.Shared(), err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"example.org", "*.example.org:8443", "bücher.example", "127.1", "0x7f.1", "[::1]:80", "a@b.org", "example。org", "xn--a.org", "*.com"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := hosts.Parse(text)
		if err != nil {
			if !errors.Is(err, hosts.ErrInvalid) {
				t.Fatalf("Parse(%q): %v", text, err)
			}
			return
		}
		again, err := hosts.Parse(p.String())
		if err != nil || again != p {
			t.Fatalf("Parse(%q) = %q, which is read as %q, %v", text, p, again, err)
		}
		if _, err := netip.ParseAddr(p.Name); err == nil {
			t.Fatalf("Parse(%q) = %q, an address", text, p)
		}
		if err := egress.Check(sandboxes.NetworkPolicy{Egress: sandboxes.EgressNone, Allow: []string{p.String()}}); err != nil {
			t.Fatalf("Parse(%q) = %q, which the egress proxy refuses: %v", text, p, err)
		}
		if len(p.Name) > 253 || !strings.Contains(p.Name, ".") || strings.ToLower(p.Name) != p.Name || strings.ContainsAny(p.Name, "/\\@:*?#%[] \x00\r\n") {
			t.Fatalf("Parse(%q) = %q, which is no plain name", text, p)
		}
	})
}
