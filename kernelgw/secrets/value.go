package secrets

import (
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"kernelgw/kernelgw/hosts"
)

// Value is the value of a secret. However it is printed, logged, encoded or
// panicked with, it does not show; only Reveal tells it.
type Value struct {
	text *string // a pointer: fmt does not follow it, in whatever it is nested
}

// NewValue wraps a value.
func NewValue(text string) Value { return Value{&text} }

// Reveal returns the value itself.
func (v Value) Reveal() string {
	if v.text == nil {
		return ""
	}
	return *v.text
}

const hidden = "[secret]"

// String implements fmt.Stringer without telling.
func (Value) String() string { return hidden }

// GoString implements fmt.GoStringer without telling.
func (Value) GoString() string { return hidden }

// MarshalText implements encoding.TextMarshaler without telling.
func (Value) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// LogValue implements slog.LogValuer without telling.
func (Value) LogValue() slog.Value { return slog.StringValue(hidden) }

// check refuses what cannot travel in a header.
func (v Value) check() error {
	text := v.Reveal()
	if text == "" {
		return fmt.Errorf("%w: value is missing", ErrInvalid)
	}
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("%w: value has a line break or another control character; it is sent in headers, which have none", ErrInvalid)
	}
	return nil
}

var validName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,99}$`)

// reserved are the variables on which a kernel's start, its libraries or its way
// to the network depend; prefixes and ends stand for all names that have them.
var reserved = struct{ names, prefixes, ends []string }{
	names: []string{
		"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "PWD", "OLDPWD", "LANG", "TMPDIR", "TMP", "TEMP", "TZ", "IFS", "ENV", "HOSTNAME", "DISPLAY",
		"PS1", "PS2", "PS4", "CDPATH", "PROMPT_COMMAND", "EDITOR", "PAGER", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "NODE_OPTIONS",
		"NODE_PATH", "PERL5LIB", "PERL5OPT", "RUBYLIB", "RUBYOPT", "CLASSPATH", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "GCONV_PATH",
	},
	prefixes: []string{
		"LD_", "DYLD_", "PYTHON", "IPYTHON", "JUPYTER", "JPY_", "KERNEL", "BASH_", "LC_", "XDG_", "MALLOC_", "GLIBC_", "SSL_", "GIT_SSL", "GIT_CONFIG",
		"PIP_", "UV_", "CONDA_", "MAMBA_", "NPM_CONFIG_", "R_",
	},
	ends: []string{"_PROXY"},
}

// CheckName refuses what cannot name a secret: the name becomes that of an
// environment variable, and must not be one that means something else.
// ErrInvalid.
func CheckName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("%w: a name has letters, digits and underscores, at most 100, the first no digit", ErrInvalid)
	}
	upper := strings.ToUpper(name)
	taken := slices.Contains(reserved.names, upper) ||
		slices.ContainsFunc(reserved.prefixes, func(p string) bool { return strings.HasPrefix(upper, p) }) ||
		slices.ContainsFunc(reserved.ends, func(e string) bool { return strings.HasSuffix(upper, e) })
	if taken {
		return fmt.Errorf("%w: %s is an environment variable with a meaning of its own; choose another name", ErrInvalid, name)
	}
	return nil
}

// maxHosts bounds the hosts of one secret.
const maxHosts = 20

// checkHosts brings the hosts of a secret to one form. A wildcard below which
// anybody can have a name would give the value to anybody.
func checkHosts(texts []string) ([]string, error) {
	if len(texts) == 0 || len(texts) > maxHosts {
		return nil, fmt.Errorf("%w: hosts: name 1 to %d hosts that the value may be sent to, as in api.example.org", ErrInvalid, maxHosts)
	}
	var list []string
	for _, text := range texts {
		pattern, err := hosts.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("%w: hosts: %w", ErrInvalid, err)
		}
		if pattern.Shared() {
			return nil, fmt.Errorf("%w: hosts: %s: anybody can have a name below it", ErrInvalid, pattern)
		}
		if name := pattern.String(); !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list, nil
}
