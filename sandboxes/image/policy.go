package image

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"kernelgw/sandboxes"
)

// Mode says what becomes of an image without a signature that counts.
type Mode string

// The modes.
const (
	VerifyOff     Mode = "off"     // signatures are not looked at
	VerifyWarn    Mode = "warn"    // it is used, and whoever uses it is told
	VerifyRequire Mode = "require" // it is refused
)

// Policy says which images may be stored and used. The zero Policy admits all.
type Policy struct {
	// Allow names the images that may be used; without any, all may.
	Allow []Pattern
	// Rules say whose signatures images need. The first that names an image
	// decides.
	Rules []SignatureRule
	// Verify is the mode of images that no rule names; "" is VerifyOff. As
	// nobody may sign those, VerifyRequire refuses them.
	Verify Mode
}

// SignatureRule says whose signatures count for some images.
type SignatureRule struct {
	// Name is what messages call the rule, as "image_signers[0]".
	Name string
	// Images are those that the rule is about; without any, all.
	Images []Pattern
	Verify Mode
	// Verifier knows who may sign. It may be nil when Verify is VerifyOff.
	Verifier Verifier
}

// Verifier believes signatures, or says why not. Safe for concurrent use.
type Verifier interface {
	// Verify returns who signed an image manifest (or index), in words. What
	// was signed is compared with the bytes of the manifest itself. The error
	// says why the signature does not count, without naming the image.
	Verify(sig Signature, manifest []byte) (signer string, err error)
}

// Verdict is what a policy says of an image.
type Verdict struct {
	Origin string // as which the image was judged
	Digest string // "" when it was refused before that was known
	// Allowed is the pattern that allows it, "" when none is needed.
	Allowed string
	// Rule is the rule about signatures that names it, "" for none, and Mode
	// what that asks for.
	Rule string
	Mode Mode
	// Signatures are those that were found, each with who made it or why it
	// does not count. They are not looked for when Mode is VerifyOff.
	Signatures []Checked
	// Signer made the first signature that counts; "" when there is none.
	Signer string
	// Missing says why no signature counts, when one was looked for.
	Missing error
	// Refused says why the image may not be used; nil when it may.
	Refused error

	counted []Signature
}

// Checked is a signature with what came of it.
type Checked struct {
	Found  string // where it was found
	Signer string // who made it, when it counts
	Err    error  // why it does not count
}

// Warning is what whoever uses the image shall be told; "" is nothing.
func (v Verdict) Warning() string {
	if v.Refused == nil && v.Mode == VerifyWarn && v.Missing != nil {
		return fmt.Sprintf("image %s is used although %v", v.Origin, v.Missing)
	}
	return ""
}

// RefusedError is the error about an image that the policy does not admit. It
// is a sandboxes.ErrInvalid.
type RefusedError struct {
	Image string // as it was asked for
	Why   error  // names the rule
}

// Error says which image is refused, and why.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("image %q is refused: %v", e.Image, e.Why)
}

// Unwrap makes it a sandboxes.ErrInvalid.
func (e *RefusedError) Unwrap() []error { return []error{sandboxes.ErrInvalid, e.Why} }

// allows finds the pattern that allows an image, or says why there is none.
func (p *Policy) allows(origin, digest string) (string, error) {
	if p == nil || len(p.Allow) == 0 {
		return "", nil
	}
	patterns := make([]string, len(p.Allow))
	for i, pattern := range p.Allow {
		if pattern.matches(origin, digest) {
			return pattern.String(), nil
		}
		patterns[i] = pattern.String()
	}
	what := origin
	if digest != "" && !strings.Contains(origin, "@") {
		what += "@" + digest
	}
	return "", fmt.Errorf("image_allow does not name %s; it names %s", what, strings.Join(patterns, ", "))
}

// rule finds the rule about an image's signatures.
func (p *Policy) rule(origin, digest string) SignatureRule {
	if p == nil {
		return SignatureRule{Verify: VerifyOff}
	}
	for _, r := range p.Rules {
		if len(r.Images) == 0 {
			return r
		}
		for _, pattern := range r.Images {
			if pattern.matches(origin, digest) {
				return r
			}
		}
	}
	return SignatureRule{Verify: cmp.Or(p.Verify, VerifyOff)}
}

// judge decides about the image of that manifest. find is asked for signatures
// only when the policy needs them, or when all are wanted.
func (p *Policy) judge(origin string, manifest []byte, all bool, find func() ([]Signature, error)) Verdict {
	v := Verdict{Origin: origin, Digest: digestOf(manifest)}
	if v.Allowed, v.Refused = p.allows(origin, v.Digest); v.Refused != nil {
		return v
	}
	rule := p.rule(origin, v.Digest)
	v.Rule, v.Mode = rule.Name, rule.Verify
	if rule.Verify == VerifyOff && !all {
		return v
	}
	if rule.Verifier == nil && !all {
		v.Missing = errNobody
	} else if found, err := find(); err != nil {
		v.Missing = fmt.Errorf("its signatures cannot be read: %w", err)
	} else {
		v.check(rule.Verifier, manifest, found)
	}
	if rule.Verify == VerifyRequire && v.Missing != nil {
		v.Refused = fmt.Errorf("%s requires a signature: %w", cmp.Or(rule.Name, "image_verify"), v.Missing)
	}
	return v
}

var errNobody = errors.New("image_signers does not say who may sign it")

// check tries every signature, so that whoever asks learns of each.
func (v *Verdict) check(verifier Verifier, manifest []byte, found []Signature) {
	var reasons []error
	for _, sig := range found {
		c := Checked{Found: sig.Found}
		var signed []byte
		if signed, c.Err = sig.signed(manifest); c.Err == nil && verifier == nil {
			c.Err = errNobody
		} else if c.Err == nil {
			c.Signer, c.Err = verifier.Verify(sig, signed)
		}
		if c.Err != nil {
			reasons = append(reasons, fmt.Errorf("%s: %w", c.Found, c.Err))
		} else {
			v.counted = append(v.counted, sig)
			v.Signer = cmp.Or(v.Signer, c.Signer)
		}
		v.Signatures = append(v.Signatures, c)
	}
	switch {
	case v.Signer != "":
	case len(found) == 0:
		v.Missing = errors.New("it has no signature")
	default:
		v.Missing = fmt.Errorf("none of its %d signatures counts: %w", len(found), joined(reasons))
	}
}

// joined is errors on one line.
func joined(list []error) error {
	if len(list) == 1 {
		return list[0]
	}
	texts := make([]string, len(list))
	for i, err := range list {
		texts[i] = err.Error()
	}
	return errors.New(strings.Join(texts, "; "))
}
