package egress

import (
	"strings"
	"testing"
)

func TestHostNamesAreNormalised(t *testing.T) {
	for in, want := range map[string]string{
		"example.org":              "example.org:443",
		"EXAMPLE.Org":              "example.org:443",
		"example.org.":             "example.org:443",
		"example.org:80":           "example.org:80",
		"bücher.example":           "xn--bcher-kva.example:443",
		"BÜCHER.example":           "xn--bcher-kva.example:443",
		"xn--bcher-kva.example":    "xn--bcher-kva.example:443",
		"ｅｘａｍｐｌｅ．ｏｒｇ":              "example.org:443",
		"example。org":              "example.org:443",
		"my_bucket.s3.example.org": "my_bucket.s3.example.org:443",
		"93.184.216.34":            "93.184.216.34:443",
		"93.184.216.34.":           "93.184.216.34:443",
		"９３.184.216.34":            "93.184.216.34:443",
		"[2606:2800:220:1::1]:80":  "[2606:2800:220:1::1]:80",
		"[2606:2800:220:1:0::1]":   "[2606:2800:220:1::1]:443",
		"3com.example":             "3com.example:443",
		"0xcafe.example":           "0xcafe.example:443",
	} {
		got, err := parseTarget(in, 443)
		if err != nil || got.String() != want {
			t.Errorf("%q: %v %v, want %s", in, got, err, want)
		}
	}
}

func TestAmbiguousHostNamesAreRefused(t *testing.T) {
	for _, in := range []string{
		"", ".", "..", "example..org", ".example.org", "example.org..", " example.org", "exa mple.org", "example.org\x00", "example.org\r\n",
		"user@example.org", "example.org@evil.org", "a:b@example.org:443", "example.org/", "example.org\\", "example.org?", "example.org#x", "ex%61mple.org",
		"example.org:", "example.org:0", "example.org:080", "example.org:65536", "example.org:-1", "example.org:+80", "example.org:http", "example.org:80:80", "example.org:８０",
		"-example.org", "example-.org", "*.example.org", strings.Repeat("a", 64) + ".org", strings.Repeat("a.", 130) + "org",
		"xn--a.example", "xn--", "ex\u00adample\u200d.org\u2044x", "\xff\xfe.org",
		// Addresses in forms that others may read in another way.
		"2852039166", "0xa9fea9fe", "0xa9.254.169.254", "0251.0376.0251.0376", "169.254.43518", "169.16689662", "127.1", "127.0.0.01", "127.0.0.1.2", "1.2.3.256",
		"0x7f.1", "0x", "127.0.0.0x1", "example.0x7f", "example.123", "１２７.１",
		"::1", "[::1", "::1]", "[::1]x", "[fe80::1%eth0]", "[fe80::1%25eth0]:443", "[127.0.0.1]", "[example.org]", "[::ffff:1.2.3]", "[]", "[", "]",
	} {
		if got, err := parseTarget(in, 443); err == nil {
			t.Errorf("%q was taken for %v", in, got)
		}
	}
}

// What comes out is in its final form: it is printable and means itself.
func FuzzParseTarget(f *testing.F) {
	for _, seed := range []string{"example.org", "a@b:1", "[::ffff:169.254.169.254]:80", "0xa9fea9fe", "bücher.example.", "１６９。２５４。１６９。２５４", "xn--fa-hia.de", "[fe80::1%25lo]:1", "ab\u200dc.org"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got, err := parseTarget(in, 443)
		if err != nil {
			return
		}
		if got.port == 0 || got.host == "" || printable(got.host) != got.host || strings.ToLower(got.host) != got.host {
			t.Fatalf("%q became %+v", in, got)
		}
		again, err := parseTarget(got.String(), 1)
		if err != nil || again != got {
			t.Fatalf("%q became %v, and that %v, %v", in, got, again, err)
		}
		if got.addr.IsValid() != (strings.Trim(got.host, "0123456789.") == "" || strings.Contains(got.host, ":")) {
			t.Fatalf("%q became %+v: address or name?", in, got)
		}
	})
}
