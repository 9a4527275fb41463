package egress

import (
	"fmt"
	"net/url"
	"strings"

	"kernelgw/sandboxes"
)

// maxAllow bounds the hosts of one policy.
const maxAllow = 1000

// rules are a NetworkPolicy, ready to be asked. They do not change.
type rules struct {
	name   string // of the policy, for the user
	open   bool
	hosts  map[string][]pattern // by the name, or for wildcards by the name below which they match
	mirror *target
}

// pattern is one entry of an allow-list.
type pattern struct {
	base     string // name or address
	wildcard bool   // matches names below base, not base
	port     uint16 // 0 means 80 and 443
}

// Check says whether a policy makes sense; the error wraps
// sandboxes.ErrInvalid and says what to change.
func Check(policy sandboxes.NetworkPolicy) error {
	_, err := compile(policy)
	return err
}

// compile makes rules of a policy. A policy without a preset is closed but for
// the hosts that it lists: what the default is, others know.
func compile(policy sandboxes.NetworkPolicy) (*rules, error) {
	r := &rules{name: string(policy.Egress), hosts: map[string][]pattern{}}
	allow := policy.Allow
	if len(allow) > maxAllow {
		return nil, fmt.Errorf("%w: a network policy allows at most %d hosts, not %d", sandboxes.ErrInvalid, maxAllow, len(allow))
	}
	switch policy.Egress {
	case "", sandboxes.EgressNone:
		r.name = string(sandboxes.EgressNone)
	case sandboxes.EgressOpen:
		r.open = true
	case sandboxes.EgressPackages:
		if policy.Mirror == "" {
			allow = append(append([]string(nil), packageHosts...), allow...)
			break
		}
		mirror, err := parseMirror(policy.Mirror)
		if err != nil {
			return nil, fmt.Errorf("%w: cannot use the package mirror of a network policy: %v", sandboxes.ErrInvalid, err)
		}
		r.mirror = &mirror
	default:
		return nil, fmt.Errorf("%w: unknown egress %q: use none, packages or open", sandboxes.ErrInvalid, policy.Egress)
	}
	if policy.Mirror != "" && policy.Egress != sandboxes.EgressPackages {
		return nil, fmt.Errorf("%w: a package mirror is for egress packages, not for %s", sandboxes.ErrInvalid, r.name)
	}
	if len(policy.Allow) > 0 {
		r.name += " and hosts of its own"
	}
	for _, entry := range allow {
		p, err := parsePattern(entry)
		if err != nil {
			return nil, fmt.Errorf("%w: cannot allow host %q: %v", sandboxes.ErrInvalid, entry, err)
		}
		r.hosts[p.base] = append(r.hosts[p.base], p)
	}
	return r, nil
}

// parsePattern reads one entry of an allow-list, or of a secret's hosts.
func parsePattern(entry string) (pattern, error) {
	if strings.Contains(entry, "://") {
		return pattern{}, fmt.Errorf("name the host, as in example.org, not a URL")
	}
	host, wildcard := strings.CutPrefix(entry, "*.")
	t, err := parseTarget(host, 0)
	if err != nil {
		return pattern{}, err
	}
	switch {
	case t.addr.IsValid() && wildcard:
		return pattern{}, fmt.Errorf("a wildcard is for names")
	case t.addr.IsValid():
		if why := refused(t.addr); why != "" {
			return pattern{}, fmt.Errorf("%s are never reached", why)
		}
	case strings.Count(t.host, ".") == 0 && wildcard:
		return pattern{}, fmt.Errorf("the wildcard covers too much")
	default:
		if err := checkPublicName(t.host); err != nil {
			return pattern{}, err
		}
	}
	return pattern{base: t.host, wildcard: wildcard, port: t.port}, nil
}

func parseMirror(raw string) (target, error) {
	u, err := url.Parse(raw)
	if err != nil {
		// Without what url.Parse says: it quotes the URL, which may hold a password.
		return target{}, fmt.Errorf("not a URL")
	}
	standard := uint16(443)
	switch u.Scheme {
	case "https":
	case "http":
		standard = 80
	default:
		return target{}, fmt.Errorf("its URL must begin with http:// or https://")
	}
	if u.User != nil {
		return target{}, fmt.Errorf("its URL must not hold a user name or password: make a secret for its host")
	}
	t, err := parseTarget(u.Host, standard)
	if err != nil {
		return target{}, err
	}
	if t.addr.IsValid() {
		if why := refusedToMirrors(t.addr); why != "" {
			return target{}, fmt.Errorf("%s are never reached", why)
		}
	}
	return t, nil
}

// matches reports whether the pattern names a target.
func (p pattern) matches(t target) bool {
	if p.port != t.port && (p.port != 0 || t.port != 80 && t.port != 443) {
		return false
	}
	if p.wildcard {
		return !t.addr.IsValid() && strings.HasSuffix(t.host, "."+p.base)
	}
	return t.host == p.base
}

// deny says why the rules do not let a client go to a target; "" when they do.
func (r *rules) deny(t target) string {
	if r.isMirror(t) || r.lists(t) {
		return ""
	}
	if !r.open {
		if t.addr.IsValid() {
			return "its network policy (" + r.name + ") does not name the address"
		}
		return "its network policy (" + r.name + ") does not name the host and port"
	}
	if t.port != 80 && t.port != 443 {
		return "only ports 80 and 443 are open"
	}
	if t.addr.IsValid() {
		if why := refused(t.addr); why != "" {
			return why + " are never reached"
		}
		return ""
	}
	if err := checkPublicName(t.host); err != nil {
		return err.Error()
	}
	return ""
}

// isMirror reports whether a target is the policy's package mirror, which alone
// may be at a private address.
func (r *rules) isMirror(t target) bool {
	return r.mirror != nil && r.mirror.host == t.host && r.mirror.port == t.port
}

func (r *rules) lists(t target) bool {
	for name := t.host; ; {
		for _, p := range r.hosts[name] {
			if p.matches(t) {
				return true
			}
		}
		_, parent, ok := strings.Cut(name, ".")
		if !ok || t.addr.IsValid() {
			return false
		}
		name = parent
	}
}
