package egress

import (
	"errors"
	"strings"
	"testing"

	"kernelgw/sandboxes"
)

// index is one of the hosts that the preset for packages means.
var index = packageHosts[0]

func TestPoliciesThatMakeNoSense(t *testing.T) {
	for name, p := range map[string]sandboxes.NetworkPolicy{
		"unknown preset":        {Egress: "all"},
		"URL":                   only("https://example.org"),
		"path":                  only("example.org/simple"),
		"user":                  only("me@example.org"),
		"everything":            only("*"),
		"everything in a dot":   only("*."),
		"all of org":            only("*.org"),
		"star inside":           only("a.*.org"),
		"star as part":          only("*example.org"),
		"empty":                 only(""),
		"port 0":                only("example.org:0"),
		"any port":              only("example.org:*"),
		"no dot":                only("redis"),
		"localhost":             only("localhost"),
		"metadata":              only("metadata.google.internal"),
		"private":               only("10.0.0.1"),
		"metadata address":      only("169.254.169.254"),
		"mapped":                only("[::ffff:10.0.0.1]"),
		"decimal":               only("2852039166"),
		"wildcard of address":   only("*.1.1.1.1"),
		"control":               only("example.org\n"),
		"too many":              only(make([]string, maxAllow+1)...),
		"mirror without":        {Egress: sandboxes.EgressOpen, Mirror: "https://mirror.example.org/simple"},
		"mirror ftp":            {Egress: sandboxes.EgressPackages, Mirror: "ftp://mirror.example.org/"},
		"mirror relative":       {Egress: sandboxes.EgressPackages, Mirror: "mirror.example.org"},
		"mirror user":           {Egress: sandboxes.EgressPackages, Mirror: "https://u:hunter2@mirror.example.org/"},
		"mirror unparsable":     {Egress: sandboxes.EgressPackages, Mirror: "https://u:hunter2@mirror.example.org:x/"},
		"mirror on loopback":    {Egress: sandboxes.EgressPackages, Mirror: "http://127.0.0.1:3141/"},
		"mirror is metadata":    {Egress: sandboxes.EgressPackages, Mirror: "http://169.254.169.254/"},
		"mirror as a number":    {Egress: sandboxes.EgressPackages, Mirror: "http://0x7f000001/"},
		"mirror without a host": {Egress: sandboxes.EgressPackages, Mirror: "https:///simple"},
	} {
		err := Check(p)
		if !errors.Is(err, sandboxes.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error tells the password: %v", name, err)
		}
	}
}

func TestPolicyDecides(t *testing.T) {
	packages := sandboxes.NetworkPolicy{Egress: sandboxes.EgressPackages}
	mirror := sandboxes.NetworkPolicy{Egress: sandboxes.EgressPackages, Mirror: "http://Devpi:3141/root/pypi"}
	for _, c := range []struct {
		policy sandboxes.NetworkPolicy
		host   string
		want   bool
	}{
		{sandboxes.NetworkPolicy{}, index + ":443", false},
		{only(), index + ":443", false},
		{packages, index + ":443", true},
		{packages, "PYPI.org.:443", true},
		{packages, index + ":80", true},
		{packages, index + ":22", false},
		{packages, "evil." + index + ":443", false},
		{packages, index + ".evil.example:443", false},
		{packages, "x" + index + ":443", false},
		{packages, "upload." + index + ":443", false},
		{packages, "eu.pkg.julialang.org:443", true},
		{packages, "93.184.216.34:443", false},
		{mirror, "devpi:3141", true},
		{mirror, "devpi:80", false},
		{mirror, index + ":443", false},
		{only("example.org"), "example.org:443", true},
		{only("example.org"), "www.example.org:443", false},
		{only("example.org"), "example.org:8443", false},
		{only("example.org:8443"), "example.org:8443", true},
		{only("example.org:8443"), "example.org:443", false},
		{only("example.org:8443", "example.org"), "example.org:443", true},
		{only("*.example.org"), "a.example.org:443", true},
		{only("*.example.org"), "a.b.example.org:443", true},
		{only("*.example.org"), "example.org:443", false},
		{only("*.example.org"), "a-example.org:443", false},
		{only("*.example.org:8443"), "a.example.org:8443", true},
		{only("*.example.org:8443"), "a.example.org:443", false},
		{only("Bücher.example"), "xn--bcher-kva.example:443", true},
		{only("93.184.216.34"), "93.184.216.34:443", true},
		{only("93.184.216.34"), "[::ffff:93.184.216.34]:443", false},
		{open, "example.org:443", true},
		{open, "example.org:80", true},
		{open, "example.org:22", false},
		{open, "example.org:25", false},
		{open, "example.org:8443", false},
		{open, "93.184.216.34:443", true},
		{open, "10.0.0.1:443", false},
		{open, "redis:443", false},
		{open, "metadata.google.internal:80", false},
		{open, "printer.local:80", false},
		{open, "a.localhost:80", false},
		{sandboxes.NetworkPolicy{Egress: sandboxes.EgressOpen, Allow: []string{"example.org:8443"}}, "example.org:8443", true},
	} {
		r, err := compile(c.policy)
		if err != nil {
			t.Fatal(err)
		}
		target, err := parseTarget(c.host, 443)
		if err != nil {
			t.Fatal(err)
		}
		if why := r.deny(target); (why == "") != c.want {
			t.Errorf("%+v, %s: %q, want allowed: %v", c.policy, c.host, why, c.want)
		}
	}
}

func TestPackageHostsAreAllValid(t *testing.T) {
	for _, host := range packageHosts {
		if err := Check(only(host)); err != nil {
			t.Error(err)
		}
	}
}
