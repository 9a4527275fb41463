package egress

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// minPlaceholder is the shortest placeholder: a shorter one could be in a header
// by chance.
const minPlaceholder = 8

// Secret is a value that a client may use without having it: in headers of
// requests to Hosts over verified TLS, Placeholder becomes Value.
type Secret struct {
	Name        string
	Placeholder string   // what the client sends; at least 8 characters, none of them a space
	Value       string   // what the host gets
	Hosts       []string // as in sandboxes.NetworkPolicy.Allow; the policy must allow them as well
}

// Check says whether a secret can be used. The error does not hold its value.
func (s Secret) Check() error {
	switch {
	case len(s.Placeholder) < minPlaceholder || strings.Trim(s.Placeholder, printableASCII[1:]) != "":
		return fmt.Errorf("cannot use secret %q: its placeholder must be %d or more characters without spaces", s.Name, minPlaceholder)
	case s.Value == "" || !httpguts.ValidHeaderFieldValue(s.Value):
		return fmt.Errorf("cannot use secret %q: its value is empty or cannot be in a header", s.Name)
	case strings.Contains(s.Value, s.Placeholder) || strings.Contains(s.Placeholder, s.Value):
		return fmt.Errorf("cannot use secret %q: its placeholder and its value contain each other", s.Name)
	case len(s.Hosts) == 0:
		return fmt.Errorf("cannot use secret %q: it names no host", s.Name)
	}
	for _, host := range s.Hosts {
		if _, err := parsePattern(host); err != nil {
			return fmt.Errorf("cannot use secret %q for host %q: %w", s.Name, host, errors.New(err.Error()))
		}
	}
	return nil
}

// isFor reports whether the secret is meant for a target, and fit for use.
func (s Secret) isFor(t target) bool {
	if s.Check() != nil {
		return false
	}
	for _, host := range s.Hosts {
		if p, err := parsePattern(host); err == nil && p.matches(t) {
			return true
		}
	}
	return false
}

// substitution puts values in the place of placeholders, and back. The zero
// value does nothing.
type substitution struct {
	secrets     []Secret
	there, back replacements
}

func newSubstitution(secrets []Secret) substitution {
	if len(secrets) == 0 {
		return substitution{}
	}
	s := substitution{secrets: secrets}
	for _, secret := range secrets {
		s.there = append(s.there, replacement{secret.Placeholder, secret.Value})
		s.back = append(s.back, replacement{secret.Value, secret.Placeholder})
	}
	return s
}

// maxPut bounds the headers of a request with the values in them: a value may be
// a thousand times as long as its placeholder, and a client repeat that at will.
const maxPut = 256 << 10

// fits reports whether request headers are within maxPut after put.
func (s substitution) fits(header http.Header) bool {
	size := 0
	for _, values := range header {
		for _, value := range values {
			decoded, _ := decodeBasic(value)
			size += len(value)
			for _, secret := range s.secrets {
				size += (strings.Count(value, secret.Placeholder) + strings.Count(decoded, secret.Placeholder)) * len(secret.Value)
			}
		}
	}
	return size <= maxPut
}

// put replaces placeholders in the values of request headers, also inside of
// Basic credentials.
func (s substitution) put(header http.Header) {
	for name, values := range header {
		for i, value := range values {
			if name == "Authorization" {
				if basic, ok := s.putBasic(value); ok {
					values[i] = basic
					continue
				}
			}
			values[i] = s.there.in(value)
		}
	}
}

func (s substitution) putBasic(value string) (string, bool) {
	decoded, ok := decodeBasic(value)
	if !ok {
		return "", false
	}
	scheme, _, _ := strings.Cut(value, " ")
	return scheme + " " + base64.StdEncoding.EncodeToString([]byte(s.there.in(decoded))), true
}

func decodeBasic(value string) (decoded string, ok bool) {
	scheme, encoded, _ := strings.Cut(value, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", false
	}
	text, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(encoded), "="))
	return string(text), err == nil
}

// take replaces values in response headers, where hosts may repeat what they
// were sent.
func (s substitution) take(header http.Header) {
	for _, values := range header {
		for i, value := range values {
			values[i] = s.back.in(value)
		}
	}
}
