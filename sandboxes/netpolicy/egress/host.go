package egress

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// target is where a client wants to go, in the one form in which targets are
// compared: a name in lower case without the final dot, internationalised ones
// in punycode, or an address.
type target struct {
	host string
	addr netip.Addr // valid when host is an address
	port uint16
}

func (t target) String() string { return net.JoinHostPort(t.host, strconv.Itoa(int(t.port))) }

// names maps what browsers map: case, width, and international letters. It is
// lenient with underscores, which real hosts have.
var names = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(false), idna.VerifyDNSLength(false))

// ownNames are the last labels of names that mean something only inside of some
// network, never a public host.
var ownNames = []string{"localhost", "local", "internal", "intranet", "lan", "corp", "home", "localdomain", "arpa", "onion"}

// parseTarget reads "host" or "host:port", as in a request line or a Host
// header. The port is standard when none is named. What has more than one reading
// is refused: user names, zones, percent signs, and IPv4 addresses in
// any form but four decimal numbers, because a resolver may read them otherwise
// than we do.
func parseTarget(authority string, standard uint16) (target, error) {
	host, port, err := splitPort(authority, standard)
	if err != nil {
		return target{}, err
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		addr, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		if err != nil || !strings.HasSuffix(inner, "]") || !addr.Is6() || addr.Zone() != "" {
			return target{}, errors.New("not an IPv6 address without a zone")
		}
		return target{host: addr.String(), addr: addr, port: port}, nil
	}
	name, err := normaliseName(host)
	if err != nil {
		return target{}, err
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		return target{host: name, addr: addr, port: port}, nil
	}
	return target{host: name, port: port}, nil
}

func splitPort(authority string, standard uint16) (host string, port uint16, err error) {
	host = authority
	colon := strings.LastIndexByte(authority, ':')
	if colon < 0 || strings.HasSuffix(authority, "]") {
		return host, standard, nil
	}
	host, digits := authority[:colon], authority[colon+1:]
	n, err := strconv.ParseUint(digits, 10, 16)
	// ParseUint takes no sign, but leading zeros.
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != digits {
		return "", 0, errors.New("not a port number")
	}
	return host, uint16(n), nil
}

// normaliseName returns a name as target.host has it, or an IPv4 address that
// was written as four decimal numbers.
func normaliseName(name string) (string, error) {
	if len(name) > 1024 || !utf8.ValidString(name) {
		return "", errors.New("not a host name")
	}
	// Before the mapping, which could make one of these out of another
	// character, and after it.
	if strings.ContainsAny(name, "@/\\?#%:[]<>^|\"'`{}") {
		return "", errors.New("not a host name")
	}
	ascii, err := names.ToASCII(name)
	if err != nil {
		return "", errors.New("not an internationalised host name")
	}
	ascii = strings.TrimSuffix(strings.ToLower(ascii), ".")
	if ascii == "" || len(ascii) > 253 {
		return "", errors.New("name empty or too long")
	}
	labels := strings.Split(ascii, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" ||
			label[0] == '-' || label[len(label)-1] == '-' {
			return "", errors.New("not a host name")
		}
	}
	if last := labels[len(labels)-1]; isNumber(last) {
		addr, err := netip.ParseAddr(ascii)
		if err != nil || !addr.Is4() {
			return "", errors.New("an address must be written as four decimal numbers")
		}
	}
	return ascii, nil
}

// isNumber reports whether a name whose last label is this one may be read as
// an IPv4 address: decimal, octal and hexadecimal numbers.
func isNumber(label string) bool {
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

// checkPublicName refuses names that cannot be of a public host.
func checkPublicName(name string) error {
	labels := strings.Split(name, ".")
	if len(labels) == 1 {
		return errors.New("a name without a dot is not of a public host")
	}
	if last := labels[len(labels)-1]; slices.Contains(ownNames, last) {
		return fmt.Errorf("names that end in .%s are not of public hosts", last)
	}
	return nil
}
