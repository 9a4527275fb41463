package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"kernelgw/sandboxes/image"
)

// Options say who may sign.
type Options struct {
	Keys       []Key
	Identities []Identity
	// Root is a sigstore trusted root in JSON (trusted_root.json): authorities
	// of certificates and times, and transparency logs. Identities need it, and
	// keys with Log.
	Root []byte
}

// Key is a public key whose signatures count.
type Key struct {
	Name string // in messages
	PEM  []byte // ECDSA, RSA or Ed25519, in PKIX form
	// Log asks for an entry in a transparency log besides the signature.
	Log bool
}

// Identity is somebody whose keyless signatures count: who signed is in a
// short-lived certificate, and when in a transparency log.
type Identity struct {
	Issuer  string // exactly: who vouched, as https://token.actions.githubusercontent.com
	Subject string // exactly: an e-mail address, or the URI of a workflow
	// SubjectPattern is a regular expression that the whole subject must match,
	// instead of Subject.
	SubjectPattern string
}

// String is the identity in words.
func (i Identity) String() string {
	if i.Subject == "" {
		return fmt.Sprintf("%s as vouched for by %s", i.SubjectPattern, i.Issuer)
	}
	return fmt.Sprintf("%s as vouched for by %s", i.Subject, i.Issuer)
}

// Verifier implements image.Verifier.
type Verifier struct {
	keys       []keyVerifier
	identities []Identity
	accepted   []verify.PolicyOption // one for each of identities
	keyless    *verify.Verifier      // nil without identities
	root       *root.TrustedRoot
}

type keyVerifier struct {
	name   string
	log    bool
	verify *verify.Verifier
}

// New returns a Verifier that believes who is named in opts, and nobody else.
func New(opts Options) (*Verifier, error) {
	v := &Verifier{identities: opts.Identities}
	if len(opts.Keys)+len(opts.Identities) == 0 {
		return nil, errors.New("nobody may sign: name a key or an identity")
	}
	if opts.Root != nil {
		var err error
		if v.root, err = root.NewTrustedRootFromJSON(opts.Root); err != nil {
			return nil, fmt.Errorf("cannot read the trust root: %w", err)
		}
	}
	for _, key := range opts.Keys {
		k, err := v.newKey(key)
		if err != nil {
			return nil, fmt.Errorf("cannot use key %s: %w", key.Name, err)
		}
		v.keys = append(v.keys, k)
	}
	for _, id := range opts.Identities {
		accept, err := id.policy()
		if err != nil {
			return nil, fmt.Errorf("cannot use identity %s: %w", id, err)
		}
		v.accepted = append(v.accepted, accept)
	}
	if len(opts.Identities) == 0 {
		return v, nil
	}
	if v.root == nil {
		return nil, errors.New("identities need a trust root, which says whose certificates and logs are believed")
	}
	needs := []verify.VerifierOption{verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1)}
	if len(v.root.CTLogs()) > 0 {
		needs = append(needs, verify.WithSignedCertificateTimestamps(1))
	}
	var err error
	v.keyless, err = verify.NewVerifier(v.root, needs...)
	return v, err
}

func (v *Verifier) newKey(key Key) (keyVerifier, error) {
	k := keyVerifier{name: key.Name, log: key.Log}
	public, err := cryptoutils.UnmarshalPEMToPublicKey(key.PEM)
	if err != nil {
		return k, err
	}
	switch public.(type) {
	case *ecdsa.PublicKey, *rsa.PublicKey, ed25519.PublicKey:
	default:
		return k, fmt.Errorf("it is a %T, not an ECDSA, RSA or Ed25519 key", public)
	}
	material, err := onlyKey(public)
	if err != nil {
		return k, err
	}
	if !key.Log {
		k.verify, err = verify.NewVerifier(material, verify.WithNoObserverTimestamps())
		return k, err
	}
	if v.root == nil {
		return k, errors.New("to look for it in a log needs a trust root, which says which logs are believed")
	}
	k.verify, err = verify.NewVerifier(root.TrustedMaterialCollection{material, v.root}, verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1))
	return k, err
}

// onlyKey trusts one key, whatever name a bundle gives it.
func onlyKey(public crypto.PublicKey) (root.TrustedMaterial, error) {
	verifier, err := signature.LoadDefaultVerifier(public)
	if err != nil {
		return nil, err
	}
	key := root.NewExpiringKey(verifier, time.Time{}, time.Time{})
	return root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return key, nil }), nil
}

func (i Identity) policy() (verify.PolicyOption, error) {
	pattern := ""
	if i.SubjectPattern != "" {
		if _, err := regexp.Compile(i.SubjectPattern); err != nil {
			return nil, err
		}
		pattern = "^(?:" + i.SubjectPattern + ")$"
	}
	if i.Issuer == "" || (i.Subject == "") == (pattern == "") {
		return nil, errors.New("it needs an issuer, and either a subject or a pattern for it")
	}
	id, err := verify.NewShortCertificateIdentity(i.Issuer, "", i.Subject, pattern)
	return verify.WithCertificateIdentity(id), err
}

// Verify implements image.Verifier.
func (v *Verifier) Verify(sig image.Signature, manifest []byte) (string, error) {
	e, err := read(sig)
	if err != nil {
		return "", err
	}
	if err := e.isOf(manifest); err != nil {
		return "", err
	}
	if e.certificate() == nil {
		return v.byKey(e)
	}
	return v.byIdentity(e)
}

func (v *Verifier) byKey(e *entity) (string, error) {
	if len(v.keys) == 0 {
		return "", errors.New("it was made with a key, and only keyless signatures count")
	}
	reasons := make([]string, len(v.keys))
	for i, k := range v.keys {
		_, err := k.verify.Verify(e.bundle, verify.NewPolicy(verify.WithArtifact(bytes.NewReader(e.message)), verify.WithKey()))
		if err == nil {
			return "key " + k.name, nil
		}
		reasons[i] = k.explain(e)
	}
	return "", errors.New(strings.Join(reasons, "; "))
}

// explain says why a signature does not count as one of the key.
func (k keyVerifier) explain(e *entity) string {
	if k.log && len(e.bundle.VerificationMaterial.TlogEntries) == 0 {
		return fmt.Sprintf("it has no entry of a transparency log, which key %s asks for", k.name)
	}
	if _, err := k.verify.VerifyTransparencyLogInclusion(e.bundle); err != nil {
		return fmt.Sprintf("for key %s, it is in no transparency log that the trust root knows: %v", k.name, err)
	}
	return fmt.Sprintf("it was made by another key than %s, or changed since", k.name)
}

func (v *Verifier) byIdentity(e *entity) (string, error) {
	if v.keyless == nil {
		return "", errors.New("it is keyless, and only signatures by keys count")
	}
	if len(e.bundle.VerificationMaterial.TlogEntries) == 0 {
		return "", errors.New("it has no entry of a transparency log")
	}
	result, err := v.keyless.Verify(e.bundle, verify.NewPolicy(verify.WithArtifact(bytes.NewReader(e.message)), v.accepted...))
	if err != nil {
		return "", v.explain(e, err)
	}
	who := result.Signature.Certificate
	return Identity{Issuer: who.Issuer, Subject: who.SubjectAlternativeName}.String(), nil
}
