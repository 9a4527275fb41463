package egress

import (
	"net/netip"
	"testing"
)

func TestAddressesThatAreNeverReached(t *testing.T) {
	for _, in := range []string{
		"0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "100.100.100.200", "127.0.0.1", "127.255.255.254", "169.254.169.254", "169.254.170.2",
		"168.63.129.16", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255",
		"198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
		"::", "::1", "::7f00:1", "::a9fe:a9fe", // IPv4-compatible
		"::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "::ffff:0:10.0.0.1", // mapped, and translated
		"64:ff9b::169.254.169.254", "64:ff9b::10.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b:1::1", // NAT64
		"2002:a9fe:a9fe::", "2002:7f00:1::1", "2002:5db8:d822::1", // 6to4, of public ones as well
		"2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:10::1", "2001:20::1", "2001:db8::1", "3fff::1", // Teredo, ORCHID, documentation
		"100::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fd20:ce::254", "fe80::1", "fe80::1%eth0", "febf::1", "fec0::1", "ff02::1", "ff05::1:3",
		"4000::1", "e000::1",
	} {
		if refused(netip.MustParseAddr(in)) == "" {
			t.Errorf("%s may be reached", in)
		}
	}
	if refused(netip.Addr{}) == "" {
		t.Error("no address may be reached")
	}
}

func TestPublicAddressesAreReached(t *testing.T) {
	for _, in := range []string{
		"1.1.1.1", "9.255.255.255", "11.0.0.0", "93.184.216.34", "100.63.255.255", "100.128.0.0", "128.0.0.1", "169.253.255.255", "172.15.255.255", "172.32.0.0", "192.0.1.1",
		"192.167.255.255", "198.17.255.255", "198.20.0.0", "223.255.255.255",
		"2606:4700::1111", "2a00:1450:4001::1", "64:ff9b::1.1.1.1", "::ffff:1.1.1.1", "2001:4860:4860::8888",
	} {
		if why := refused(netip.MustParseAddr(in)); why != "" {
			t.Errorf("%s is refused: %s", in, why)
		}
	}
}

func TestMirrorsMayBePrivateAndNothingElse(t *testing.T) {
	for _, in := range []string{"10.0.0.5", "192.168.3.4", "172.20.0.1", "100.64.0.9", "fd12::1", "::ffff:10.0.0.5", "1.1.1.1"} {
		if why := refusedToMirrors(netip.MustParseAddr(in)); why != "" {
			t.Errorf("%s is refused: %s", in, why)
		}
	}
	for _, in := range []string{"127.0.0.1", "::1", "169.254.169.254", "fe80::1", "0.0.0.0", "224.0.0.1", "fd00:ec2::254", "100.100.100.200", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "100::1"} {
		if refusedToMirrors(netip.MustParseAddr(in)) == "" {
			t.Errorf("%s may be reached", in)
		}
	}
}
