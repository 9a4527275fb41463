package trust

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

// explain says in words why a keyless signature does not count. It takes the
// steps of the verification one by one, and returns the first that fails.
func (v *Verifier) explain(e *entity, failed error) error {
	cert := e.certificate()
	if stranger := new(verify.ErrNoMatchingCertificateIdentity); errors.As(failed, &stranger) {
		return v.explainIdentity(e)
	}
	entries, err := e.bundle.TlogEntries()
	if err != nil {
		return fmt.Errorf("its log entries cannot be read: %w", err)
	}
	for _, entry := range entries {
		if at := entry.IntegratedTime(); !at.IsZero() && (at.Before(cert.NotBefore) || at.After(cert.NotAfter)) {
			return fmt.Errorf("its certificate had expired, or was not valid yet, when it was logged: valid from %s to %s, logged at %s",
				clock(cert.NotBefore), clock(cert.NotAfter), clock(at))
		}
	}
	logged, err := v.keyless.VerifyTransparencyLogInclusion(e.bundle)
	if err != nil {
		return fmt.Errorf("it is in no transparency log that the trust root knows: %w", err)
	}
	times, err := v.keyless.VerifyObserverTimestamps(e.bundle, logged)
	if err != nil {
		return fmt.Errorf("nobody that the trust root knows says when it was made: %w", err)
	}
	for _, at := range times {
		if at.Timestamp.Before(cert.NotBefore) || at.Timestamp.After(cert.NotAfter) {
			return fmt.Errorf("its certificate had expired, or was not valid yet, when it was made: valid from %s to %s, made at %s",
				clock(cert.NotBefore), clock(cert.NotAfter), clock(at.Timestamp))
		}
		if _, err := verify.VerifyLeafCertificate(at.Timestamp, cert, v.root); err != nil {
			return fmt.Errorf("its certificate was issued by no authority that the trust root knows: %w", err)
		}
	}
	return fmt.Errorf("it does not fit its certificate and what it is of: %w", failed)
}

func (v *Verifier) explainIdentity(e *entity) error {
	allowed := make([]string, len(v.identities))
	for i, id := range v.identities {
		allowed[i] = id.String()
	}
	who, err := certificate.SummarizeCertificate(e.certificate())
	if err != nil {
		return fmt.Errorf("who made it cannot be read: %w", err)
	}
	return fmt.Errorf("it was made by %s, and not by %s",
		Identity{Issuer: who.Issuer, Subject: who.SubjectAlternativeName}, strings.Join(allowed, ", or "))
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }
