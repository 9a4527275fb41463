package trust

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sigstore/sigstore-go/pkg/bundle"

	"kernelgw/sandboxes/image"
)

// signPredicate is the type of in-toto statement that cosign makes to sign an
// image. Statements of other types by the same signer say something else of the
// image: that it was scanned, for instance, and what was found.
const signPredicate = "https://sigstore.dev/cosign/sign/v1"

// simpleType is the type of cosign's older form, the simple signing payload.
const simpleType = "cosign container image signature"

// maxSubjects is how many images one statement may be of.
const maxSubjects = 1024

// entity is a signature in the form that is verified.
type entity struct {
	bundle *bundle.Bundle
	// message is what the signature is over: the manifest, but for cosign's
	// older form, where it is a payload that names the manifest.
	message []byte
	simple  bool
}

// read reads a signature, of which nothing is believed yet.
func read(sig image.Signature) (*entity, error) {
	if sig.Bundle == nil {
		return readSimple(sig)
	}
	b := new(bundle.Bundle)
	if err := b.UnmarshalJSON(sig.Bundle); err != nil {
		return nil, fmt.Errorf("it cannot be read as a sigstore bundle: %w", err)
	}
	if _, err := b.VerificationContent(); err != nil {
		return nil, fmt.Errorf("it cannot be read as a sigstore bundle: %w", err)
	}
	return &entity{bundle: b}, nil
}

// certificate is that of a keyless signature; nil when it was made by a key.
func (e *entity) certificate() *x509.Certificate {
	content, err := e.bundle.VerificationContent()
	if err != nil {
		return nil // not after read
	}
	return content.Certificate()
}

// isOf checks that the signature says to be of that manifest. Whether what it
// says was signed is for later.
func (e *entity) isOf(manifest []byte) error {
	sum := sha256.Sum256(manifest)
	digest := hex.EncodeToString(sum[:])
	if e.simple {
		return simpleIsOf(e.message, digest)
	}
	e.message = manifest
	content, err := e.bundle.SignatureContent()
	if err != nil {
		return fmt.Errorf("it cannot be read as a sigstore bundle: %w", err)
	}
	if message := content.MessageSignatureContent(); message != nil {
		if got := hex.EncodeToString(message.Digest()); got != digest {
			return otherImage("sha256:"+got, digest)
		}
		return nil
	}
	statement, err := content.EnvelopeContent().Statement()
	if err != nil {
		return fmt.Errorf("what it is of cannot be read: %w", err)
	}
	if statement.PredicateType != signPredicate {
		return fmt.Errorf("it says something else of the image: it is of type %q, and only %s is a signature", statement.PredicateType, signPredicate)
	}
	if len(statement.Subject) > maxSubjects {
		return fmt.Errorf("it is of more than %d images", maxSubjects)
	}
	var others []string
	for _, subject := range statement.Subject {
		others = append(others, "sha256:"+subject.GetDigest()["sha256"])
	}
	if slices.Contains(others, "sha256:"+digest) {
		return nil
	}
	if len(others) > 3 {
		others = append(others[:3], "others")
	}
	return otherImage(strings.Join(others, ", "), digest)
}

func otherImage(got, digest string) error {
	return fmt.Errorf("it is of another image: of %s, and this is sha256:%s", got, digest)
}

func simpleIsOf(payload []byte, digest string) error {
	var claim struct {
		Critical struct {
			Type  string `json:"type"`
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
		} `json:"critical"`
	}
	if err := json.Unmarshal(payload, &claim); err != nil {
		return fmt.Errorf("what it is of cannot be read: %w", err)
	}
	if claim.Critical.Type != simpleType {
		return errors.New("it says something else of the image than that it is signed")
	}
	if claim.Critical.Image.Digest != "sha256:"+digest {
		return otherImage(claim.Critical.Image.Digest, digest)
	}
	return nil
}
