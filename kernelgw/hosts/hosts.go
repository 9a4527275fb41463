// Package hosts reads the patterns by which people name hosts of the internet:
// a name, or all names below one, and perhaps a port. It brings each to the one
// form that a proxy compares, and refuses what is no name: addresses in any
// spelling, URLs, names without a dot. It resolves nothing, and knows neither
// policies nor secrets.
package hosts

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"
)

// ErrInvalid is wrapped by every error of Parse, whose text says what is wrong.
var ErrInvalid = errors.New("no host pattern")

// Pattern names a host, or all hosts below a name.
type Pattern struct {
	Name     string // lower-case ASCII, without a dot at its end
	Wildcard bool   // all names below Name, but not Name itself
	Port     uint16 // 0 means 80 and 443
}

// maxPattern bounds what is looked at: 253 bytes of a name may have been more
// in Unicode.
const maxPattern = 1024

var (
	profile   = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(true), idna.VerifyDNSLength(true), idna.Transitional(false))
	validName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	// numeric ends what a URL parser would take for an address: 127.1, 0x7f.1.
	numeric = regexp.MustCompile(`(^|\.)([0-9]+|0x[0-9a-f]*)$`)
)

// ownNames are the last labels of names that are no public host's.
var ownNames = []string{"localhost", "local", "internal", "intranet", "lan", "corp", "home", "localdomain", "arpa", "onion"}

// Parse reads a pattern: "example.org", "*.example.org", either with a port
// behind a colon. Ports below 1024 other than 80 and 443 belong to other
// protocols and are refused, and so is a wildcard for a whole top-level domain.
func Parse(text string) (Pattern, error) {
	var p Pattern
	if len(text) > maxPattern {
		return p, fmt.Errorf("%w: it has %d bytes", ErrInvalid, len(text))
	}
	refused := func(why string) (Pattern, error) { return Pattern{}, fmt.Errorf("%w: %.80q%s", ErrInvalid, text, why) }
	name, port, hasPort := strings.Cut(text, ":")
	if hasPort {
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil || strconv.FormatUint(number, 10) != port {
			return refused(": write a name, and behind a colon perhaps a port, as in example.org:8443")
		}
		if number < 1024 && number != 80 && number != 443 {
			return refused(": of the ports below 1024 only 80 and 443 can be reached")
		}
		p.Port = uint16(number)
	}
	name, p.Wildcard = strings.CutPrefix(name, "*.")
	ascii, err := profile.ToASCII(strings.TrimSuffix(name, "."))
	if err != nil || len(ascii) > 253 || strings.ContainsRune(text, utf8.RuneError) {
		return refused(" is no name of a host")
	}
	switch {
	case numeric.MatchString(ascii):
		return refused(" is an address: hosts are named, not numbered")
	case slices.Contains(ownNames, ascii[strings.LastIndexByte(ascii, '.')+1:]):
		return refused(" is a name of some network's own, not of a public host")
	case !validName.MatchString(ascii):
		return refused(": write it as example.org, *.example.org or example.org:8443")
	}
	p.Name = ascii
	if suffix, icann := publicsuffix.PublicSuffix(ascii); p.Wildcard && suffix == ascii && icann {
		return refused(" is a whole top-level domain")
	}
	return p, nil
}

// String returns the pattern as Parse reads it.
func (p Pattern) String() string {
	text := p.Name
	if p.Wildcard {
		text = "*." + text
	}
	if p.Port != 0 {
		text += ":" + strconv.Itoa(int(p.Port))
	}
	return text
}

// Shared reports whether the names of the pattern belong to people who have
// nothing to do with each other, as those below a hosting company's domain do.
func (p Pattern) Shared() bool {
	suffix, _ := publicsuffix.PublicSuffix(p.Name)
	return p.Wildcard && suffix == p.Name
}
