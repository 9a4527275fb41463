package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"

	"kernelgw/sandboxes/image"
)

var manifest = []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`)

func newVerifier(t testing.TB, opts Options) *Verifier {
	t.Helper()
	v, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func team() []Identity { return []Identity{{Issuer: issuer, Subject: subject}} }

func TestKeylessSignatures(t *testing.T) {
	s, stranger := newSigstore(t), newSigstore(t)
	good := statement(t, signPredicate, manifest)
	soon := time.Now().Add(5 * time.Minute)
	other := []byte(`{"schemaVersion":2}`)
	v := newVerifier(t, Options{Identities: team(), Root: s.root})
	for name, tc := range map[string]struct {
		sig  image.Signature
		want string // in the reason; "" is that it counts
	}{
		"by the right identity":       {s.keyless(subject, issuer, good, soon, nil), ""},
		"of several images":           {s.keyless(subject, issuer, statement(t, signPredicate, other, manifest), soon, nil), ""},
		"by another identity":         {s.keyless("https://code.example.org/eve", issuer, good, soon, nil), "made by https://code.example.org/eve as vouched for by " + issuer},
		"vouched for by another":      {s.keyless(subject, "https://evil.example.org", good, soon, nil), "as vouched for by https://evil.example.org, and not by"},
		"of another image":            {s.keyless(subject, issuer, statement(t, signPredicate, other), soon, nil), "of another image: of sha256:" + hexSum(other)},
		"of no image":                 {s.keyless(subject, issuer, statement(t, signPredicate), soon, nil), "of another image"},
		"of a scan that failed":       {s.keyless(subject, issuer, statement(t, "https://cosign.sigstore.dev/attestation/vuln/v1", manifest), soon, nil), "something else"},
		"of another sigstore":         {stranger.keyless(subject, issuer, good, soon, nil), "no transparency log that the trust root knows"},
		"logged after it had expired": {s.keyless(subject, issuer, good, time.Now().Add(time.Hour), nil), "expired"},
		"logged before it was valid":  {s.keyless(subject, issuer, good, time.Now().Add(-time.Hour), nil), "not valid yet"},
		"without a log entry": {s.keyless(subject, issuer, good, soon, func(b *protobundle.Bundle) {
			b.VerificationMaterial.TlogEntries = nil
		}), "no entry of a transparency log"},
		"with another statement under the signature": {s.keyless(subject, issuer, statement(t, signPredicate, other), soon, func(b *protobundle.Bundle) {
			b.GetDsseEnvelope().Payload = good
		}), "no transparency log"},
		"with a signature of zeros": {s.keyless(subject, issuer, good, soon, func(b *protobundle.Bundle) {
			clear(b.GetDsseEnvelope().Signatures[0].Sig)
		}), "no transparency log"},
		"with the log entry of another": {s.keyless(subject, issuer, good, soon, func(b *protobundle.Bundle) {
			b.VerificationMaterial.TlogEntries = bundleOf(t, s.keyless(subject, issuer, good, soon, nil)).VerificationMaterial.TlogEntries
		}), "no transparency log"},
		"with a changed log time": {s.keyless(subject, issuer, good, soon, func(b *protobundle.Bundle) {
			b.VerificationMaterial.TlogEntries[0].IntegratedTime++
		}), "no transparency log"},
		"with a proof for another tree": {s.keyless(subject, issuer, good, soon, func(b *protobundle.Bundle) {
			b.VerificationMaterial.TlogEntries[0].InclusionProof.RootHash[0]++
		}), "no transparency log"},
		"with a certificate of another authority": {s.keyless(subject, issuer, good, soon, func(b *protobundle.Bundle) {
			b.VerificationMaterial.Content = bundleOf(t, stranger.keyless(subject, issuer, good, soon, nil)).VerificationMaterial.Content
		}), "no transparency log"},
		"cut short":          {image.Signature{Bundle: []byte(`{"mediaType":"` + bundleType + `"`)}, "cannot be read as a sigstore bundle"},
		"empty":              {image.Signature{Bundle: []byte(`{}`)}, "cannot be read as a sigstore bundle"},
		"of a later version": {image.Signature{Bundle: bytes.Replace(s.keyless(subject, issuer, good, soon, nil).Bundle, []byte("v0.3"), []byte("v9.9"), 1)}, "cannot be read as a sigstore bundle"},
	} {
		t.Run(name, func(t *testing.T) { expect(t, v, tc.sig, manifest, tc.want) })
	}
}

func expect(t *testing.T, v *Verifier, sig image.Signature, manifest []byte, want string) {
	t.Helper()
	who, err := v.Verify(sig, manifest)
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want == "" && who == "":
		t.Error("counts, and does not say whose it is")
	case want != "" && err == nil:
		t.Errorf("counts as signed by %s", who)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("reason: %v; want %q in it", err, want)
	}
}

func bundleOf(t *testing.T, sig image.Signature) *protobundle.Bundle {
	t.Helper()
	e, err := read(sig)
	if err != nil {
		t.Fatal(err)
	}
	return e.bundle.Bundle
}

func TestSubjectPatternMatchesTheWholeSubject(t *testing.T) {
	s := newSigstore(t)
	v := newVerifier(t, Options{Root: s.root, Identities: []Identity{{Issuer: issuer, SubjectPattern: `https://code\.example\.org/team/[a-z/.]+@refs/heads/main`}}})
	for who, want := range map[string]string{
		subject:                                "",
		"https://evil.example.org/?" + subject: "made by https://evil.example.org",
		subject + "-not":                       "made by https://code.example.org",
	} {
		expect(t, v, s.keyless(who, issuer, statement(t, signPredicate, manifest), time.Now().Add(time.Minute), nil), manifest, want)
	}
}

func TestCertificateTransparencyIsAskedForWhenTheRootHasIt(t *testing.T) {
	s := newSigstore(t)
	withCT := bytes.Replace(s.root, []byte(`"tlogs":`), []byte(`"ctlogs":`), 1)
	withCT = bytes.Replace(s.root, []byte(`"tlogs":`), append(logsOf(t, withCT), []byte(`,"tlogs":`)...), 1)
	v := newVerifier(t, Options{Root: withCT, Identities: team()})
	expect(t, v, s.keyless(subject, issuer, statement(t, signPredicate, manifest), time.Now().Add(time.Minute), nil), manifest, "certificate timestamp")
}

// logsOf cuts the "ctlogs" member out of a trusted root.
func logsOf(t *testing.T, raw []byte) []byte {
	t.Helper()
	from := bytes.Index(raw, []byte(`"ctlogs":`))
	to := bytes.IndexByte(raw[from:], ']')
	if from < 0 || to < 0 {
		t.Fatal("the trusted root has another form")
	}
	return raw[from : from+to+1]
}

func TestKeySignatures(t *testing.T) {
	key, public := newKey(t)
	another, _ := newKey(t)
	s := newSigstore(t)
	good, other := statement(t, signPredicate, manifest), []byte(`{"schemaVersion":2}`)
	v := newVerifier(t, Options{Keys: []Key{{Name: "team.pub", PEM: public}}})
	swapped := simpleByKey(t, key, simplePayload(other))
	swapped.Payload = simplePayload(manifest)
	for name, tc := range map[string]struct {
		sig  image.Signature
		want string
	}{
		"bundle":                                   {byKey(t, key, good), ""},
		"bundle by another key":                    {byKey(t, another, good), "another key than team.pub"},
		"bundle of another image":                  {byKey(t, key, statement(t, signPredicate, other)), "of another image"},
		"attestation":                              {byKey(t, key, statement(t, "https://spdx.dev/Document", manifest)), "something else"},
		"older form":                               {simpleByKey(t, key, simplePayload(manifest)), ""},
		"older form by another key":                {simpleByKey(t, another, simplePayload(manifest)), "another key than team.pub"},
		"older form of another image":              {simpleByKey(t, key, simplePayload(other)), "of another image"},
		"older form with another payload":          {swapped, "another key than team.pub, or changed"},
		"older form of another type":               {simpleByKey(t, key, bytes.Replace(simplePayload(manifest), []byte("cosign container"), []byte("some other"), 1)), "something else"},
		"older form without a signature":           {image.Signature{Payload: simplePayload(manifest)}, "missing"},
		"older form that is no base64":             {image.Signature{Payload: simplePayload(manifest), Signature: "*"}, "missing"},
		"older form with a certificate of garbage": {image.Signature{Payload: simplePayload(manifest), Signature: "AAAA", Certificate: "garbage"}, "PEM"},
		"keyless, where only keys count":           {s.keyless(subject, issuer, good, time.Now().Add(time.Minute), nil), "only signatures by keys count"},
		"nothing":                                  {image.Signature{}, "missing"},
	} {
		t.Run(name, func(t *testing.T) { expect(t, v, tc.sig, manifest, tc.want) })
	}
}

func TestKeysThatMustBeLogged(t *testing.T) {
	key, public := newKey(t)
	s, stranger := newSigstore(t), newSigstore(t)
	v := newVerifier(t, Options{Root: s.root, Keys: []Key{{Name: "team.pub", PEM: public, Log: true}}})
	sig := simpleByKey(t, key, simplePayload(manifest))
	expect(t, v, sig, manifest, "no entry of a transparency log")
	expect(t, v, byKey(t, key, statement(t, signPredicate, manifest)), manifest, "no entry of a transparency log")
	expect(t, v, s.logged(sig, public), manifest, "")
	expect(t, v, stranger.logged(sig, public), manifest, "no transparency log that the trust root knows")
	other, otherPublic := newKey(t)
	expect(t, v, s.logged(simpleByKey(t, other, simplePayload(manifest)), otherPublic), manifest, "for key team.pub")
	expect(t, v, s.logged(sig, otherPublic), manifest, "cannot be read") // the log would not have taken it
	also, alsoPublic := newKey(t)
	either := newVerifier(t, Options{Root: s.root, Keys: []Key{{Name: "team.pub", PEM: public, Log: true}, {Name: "also.pub", PEM: alsoPublic}}})
	expect(t, either, simpleByKey(t, also, simplePayload(manifest)), manifest, "")
	broken := sig
	broken.LogEntry = []byte(`{"Payload":{"body":"e30="}}`)
	expect(t, v, broken, manifest, "cannot be read")
}

func TestOlderFormWithCertificateAndLog(t *testing.T) {
	s := newSigstore(t)
	v := newVerifier(t, Options{Root: s.root, Identities: team()})
	for who, want := range map[string]string{subject: "", "https://code.example.org/eve": "made by https://code.example.org/eve"} {
		cert, key, err := s.GenerateLeafCert(who, issuer)
		if err != nil {
			t.Fatal(err)
		}
		sig := simpleByKey(t, key.(*ecdsa.PrivateKey), simplePayload(manifest))
		certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
		sig.Certificate = string(certificate)
		expect(t, v, sig, manifest, "no entry of a transparency log")
		expect(t, v, s.logged(sig, certificate), manifest, want)
	}
}

func TestBundleOverTheManifestItself(t *testing.T) {
	edPublic, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, public := newKey(t)
	v := newVerifier(t, Options{Keys: []Key{{Name: "ec", PEM: public}, {Name: "ed", PEM: publicPEM(t, edPublic)}}})
	sum := sha256.Sum256(manifest)
	ec, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{"key ec": ec, "key ed": ed25519.Sign(edKey, manifest)} {
		sig := image.Signature{Bundle: encode(t, &protobundle.Bundle{
			MediaType: bundleType,
			Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
				MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: sum[:]}, Signature: raw,
			}},
			VerificationMaterial: &protobundle.VerificationMaterial{
				Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{}},
			},
		})}
		if who, err := v.Verify(sig, manifest); err != nil || who != name {
			t.Errorf("%s: %s, %v", name, who, err)
		}
		expect(t, v, sig, []byte("another"), "of another image")
	}
}

func TestUnusableOptionsSayWhy(t *testing.T) {
	_, public := newKey(t)
	s := newSigstore(t)
	for want, opts := range map[string]Options{
		"nobody may sign":             {},
		"cannot use key broken.pub: ": {Keys: []Key{{Name: "broken.pub", PEM: []byte("-----BEGIN")}}},
		"needs a trust root":          {Keys: []Key{{Name: "k", PEM: public, Log: true}}},
		"identities need a trust":     {Identities: team()},
		"needs an issuer":             {Root: s.root, Identities: []Identity{{Subject: subject}}},
		"a subject or a pattern":      {Root: s.root, Identities: []Identity{{Issuer: issuer}}},
		"missing closing":             {Root: s.root, Identities: []Identity{{Issuer: issuer, SubjectPattern: "("}}},
		"cannot read the trust root":  {Root: []byte("{}"), Keys: []Key{{Name: "k", PEM: public}}},
	} {
		if _, err := New(opts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New = %v, want %q", err, want)
		}
	}
}

// Whatever a registry answers is an error or a signature that counts; never a
// panic.
func FuzzVerify(f *testing.F) {
	s := newSigstore(f)
	key, public := newKey(f)
	v := newVerifier(f, Options{Root: s.root, Identities: team(), Keys: []Key{{Name: "k", PEM: public, Log: true}}})
	good := statement(f, signPredicate, manifest)
	f.Add(s.keyless(subject, issuer, good, time.Now().Add(time.Minute), nil).Bundle, []byte(nil), "", "", []byte(nil))
	f.Add(byKey(f, key, good).Bundle, []byte(nil), "", "", []byte(nil))
	old := s.logged(simpleByKey(f, key, simplePayload(manifest)), public)
	f.Add([]byte(nil), old.Payload, old.Signature, "", old.LogEntry)
	f.Add([]byte(nil), old.Payload, old.Signature, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", old.LogEntry)
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","messageSignature":{},"verificationMaterial":{"publicKey":{},"tlogEntries":[{}]}}`), []byte(nil), "", "", []byte(nil))
	f.Fuzz(func(t *testing.T, bundle, payload []byte, signature, certificate string, entry []byte) {
		sig := image.Signature{Bundle: bundle, Payload: payload, Signature: signature, Certificate: certificate, LogEntry: entry}
		if who, err := v.Verify(sig, []byte("not what any seed signs")); err == nil {
			t.Errorf("counts as signed by %s", who)
		}
		_, _ = v.Verify(sig, manifest) // may count; must return
	})
}
