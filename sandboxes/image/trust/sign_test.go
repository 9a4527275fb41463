package trust

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore/pkg/signature"
	sigdsse "github.com/sigstore/sigstore/pkg/signature/dsse"
	"google.golang.org/protobuf/encoding/protojson"

	"kernelgw/sandboxes/image"
)

// Who signs in the tests.
const (
	issuer  = "https://issuer.example.org"
	subject = "https://code.example.org/team/kernels/release.yml@refs/heads/main"
)

const bundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"

// sigstore is an authority of certificates and a transparency log of a test's
// own.
type sigstore struct {
	*ca.VirtualSigstore
	t    testing.TB
	root []byte // trusted_root.json
}

func newSigstore(t testing.TB) *sigstore {
	t.Helper()
	vs, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	logs := make(map[string]*root.TransparencyLog)
	for id, log := range vs.RekorLogs() {
		// The testing support keeps the hexadecimal form where bytes belong.
		log.ID, _ = hex.DecodeString(id)
		logs[id] = log
	}
	trusted, err := root.NewTrustedRoot(root.TrustedRootMediaType01, vs.FulcioCertificateAuthorities(), nil, vs.TimestampingAuthorities(), logs)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := trusted.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	return &sigstore{vs, t, raw}
}

// statement is what cosign signs of an image.
func statement(t testing.TB, predicate string, manifests ...[]byte) []byte {
	t.Helper()
	var subjects []map[string]any
	for _, m := range manifests {
		subjects = append(subjects, map[string]any{"name": "", "digest": map[string]string{"sha256": hexSum(m)}})
	}
	raw, err := json.Marshal(map[string]any{
		"_type": "https://in-toto.io/Statement/v1", "subject": subjects, "predicateType": predicate, "predicate": map[string]any{},
	})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func hexSum(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// envelope signs a statement.
func envelope(t testing.TB, key crypto.PrivateKey, payload []byte) (*dsse.Envelope, []byte) {
	t.Helper()
	signer, err := signature.LoadECDSASigner(key.(*ecdsa.PrivateKey), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	public, err := signer.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	envelopes, err := dsse.NewEnvelopeSigner(&sigdsse.SignerAdapter{SignatureSigner: signer, Pub: public})
	if err != nil {
		t.Fatal(err)
	}
	env, err := envelopes.SignPayload(context.Background(), "application/vnd.in-toto+json", payload)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(env.Signatures[0].Sig)
	if err != nil {
		t.Fatal(err)
	}
	return env, raw
}

func envelopeContent(payload, raw []byte) *protobundle.Bundle_DsseEnvelope {
	return &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
		Payload: payload, PayloadType: "application/vnd.in-toto+json", Signatures: []*protodsse.Signature{{Sig: raw}},
	}}
}

// keyless makes the bundle that "cosign sign" makes for an identity; change
// may spoil it before it is written.
func (s *sigstore) keyless(who, vouched string, payload []byte, at time.Time, change func(*protobundle.Bundle)) image.Signature {
	s.t.Helper()
	cert, key, err := s.GenerateLeafCert(who, vouched)
	if err != nil {
		s.t.Fatal(err)
	}
	env, raw := envelope(s.t, key, payload)
	entry, err := s.GenerateTlogEntry(cert, env, raw, at.Unix(), true)
	if err != nil {
		s.t.Fatal(err)
	}
	pb := &protobundle.Bundle{
		MediaType: bundleType,
		Content:   envelopeContent(payload, raw),
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content:     &protobundle.VerificationMaterial_Certificate{Certificate: &protocommon.X509Certificate{RawBytes: cert.Raw}},
			TlogEntries: []*protorekor.TransparencyLogEntry{s.promise(entry, "dsse")},
		},
	}
	if change != nil {
		change(pb)
	}
	return image.Signature{Found: "test", Bundle: encode(s.t, pb)}
}

// promise completes a log entry of the testing support.
func (s *sigstore) promise(entry *tlog.Entry, kind string) *protorekor.TransparencyLogEntry {
	s.t.Helper()
	pb := entry.TransparencyLogEntry()
	pb.KindVersion = &protorekor.KindVersion{Kind: kind, Version: "0.0.1"}
	set, err := s.RekorSignPayload(tlog.RekorPayload{
		Body: entry.Body(), IntegratedTime: pb.IntegratedTime, LogIndex: pb.LogIndex, LogID: hex.EncodeToString(pb.LogId.KeyId),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	pb.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: set}
	return pb
}

func encode(t testing.TB, pb *protobundle.Bundle) []byte {
	t.Helper()
	raw, err := protojson.Marshal(pb)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func newKey(t testing.TB) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key, publicPEM(t, key.Public())
}

func publicPEM(t testing.TB, public crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// byKey makes the bundle that "cosign sign --key" makes without a log.
func byKey(t testing.TB, key *ecdsa.PrivateKey, payload []byte) image.Signature {
	t.Helper()
	_, raw := envelope(t, key, payload)
	return image.Signature{Found: "test", Bundle: encode(t, &protobundle.Bundle{
		MediaType: bundleType,
		Content:   envelopeContent(payload, raw),
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{Hint: "any"}},
		},
	})}
}

// simplePayload is what cosign's older form signs.
func simplePayload(manifest []byte) []byte {
	return []byte(`{"critical":{"identity":{"docker-reference":""},"image":{"docker-manifest-digest":"sha256:` + hexSum(manifest) +
		`"},"type":"cosign container image signature"},"optional":null}`)
}

// simpleByKey makes cosign's older form.
func simpleByKey(t testing.TB, key *ecdsa.PrivateKey, payload []byte) image.Signature {
	t.Helper()
	signer, err := signature.LoadECDSASigner(key, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := signer.SignMessage(bytes.NewReader(payload))
	if err != nil {
		t.Fatal(err)
	}
	return image.Signature{Found: "test", Payload: payload, Signature: base64.StdEncoding.EncodeToString(raw)}
}

// logged adds to cosign's older form the annotation with the log's promise,
// for the key or certificate that public holds in PEM form.
func (s *sigstore) logged(sig image.Signature, public []byte) image.Signature {
	s.t.Helper()
	body, err := json.Marshal(map[string]any{
		"apiVersion": "0.0.1", "kind": "hashedrekord",
		"spec": map[string]any{
			"data":      map[string]any{"hash": map[string]any{"algorithm": "sha256", "value": hexSum(sig.Payload)}},
			"signature": map[string]any{"content": sig.Signature, "publicKey": map[string]any{"content": public}},
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	log, err := s.RekorLogID()
	if err != nil {
		s.t.Fatal(err)
	}
	payload := tlog.RekorPayload{Body: base64.StdEncoding.EncodeToString(body), IntegratedTime: time.Now().Add(time.Minute).Unix(), LogIndex: 7, LogID: log}
	set, err := s.RekorSignPayload(payload)
	if err != nil {
		s.t.Fatal(err)
	}
	if sig.LogEntry, err = json.Marshal(map[string]any{"SignedEntryTimestamp": set, "Payload": payload}); err != nil {
		s.t.Fatal(err)
	}
	return sig
}
