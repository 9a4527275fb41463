package trust

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"

	"kernelgw/sandboxes/image"
)

// simpleVersion is the version of bundles that hold no more than cosign's older
// form does: a promise of the log instead of a proof.
const simpleVersion = "0.1"

// readSimple turns cosign's older form into a bundle (cosign's
// SIGNATURE_SPEC.md).
func readSimple(sig image.Signature) (*entity, error) {
	raw, err := base64.StdEncoding.DecodeString(sig.Signature)
	if err != nil || len(raw) == 0 || len(sig.Payload) == 0 {
		return nil, errors.New("it cannot be read: the signature or what it is of is missing")
	}
	mediaType, err := bundle.MediaTypeString(simpleVersion)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(sig.Payload)
	pb := &protobundle.Bundle{
		MediaType: mediaType,
		Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
			MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: digest[:]},
			Signature:     raw,
		}},
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{}},
		},
	}
	if sig.Certificate != "" {
		block, _ := pem.Decode([]byte(sig.Certificate))
		if block == nil {
			return nil, errors.New("its certificate cannot be read: it is not in PEM form")
		}
		// Its chain is not taken over: authorities come from the trust root.
		pb.VerificationMaterial.Content = &protobundle.VerificationMaterial_X509CertificateChain{
			X509CertificateChain: &protocommon.X509CertificateChain{Certificates: []*protocommon.X509Certificate{{RawBytes: block.Bytes}}},
		}
	}
	if sig.LogEntry != nil {
		entry, err := readLogEntry(sig.LogEntry)
		if err != nil {
			return nil, fmt.Errorf("its log entry cannot be read: %w", err)
		}
		pb.VerificationMaterial.TlogEntries = []*protorekor.TransparencyLogEntry{entry}
	}
	b, err := bundle.NewBundle(pb)
	if err == nil {
		_, err = b.VerificationContent()
	}
	if err != nil {
		return nil, fmt.Errorf("it cannot be read: %w", err)
	}
	return &entity{bundle: b, message: sig.Payload, simple: true}, nil
}

// readLogEntry reads the annotation dev.sigstore.cosign/bundle.
func readLogEntry(raw []byte) (*protorekor.TransparencyLogEntry, error) {
	var entry struct {
		SignedEntryTimestamp []byte
		Payload              struct {
			Body           []byte `json:"body"`
			IntegratedTime int64  `json:"integratedTime"`
			LogIndex       int64  `json:"logIndex"`
			LogID          string `json:"logID"`
		}
	}
	if err := json.Unmarshal(raw, &entry); err != nil {
		return nil, err
	}
	log, err := hex.DecodeString(entry.Payload.LogID)
	if err != nil {
		return nil, err
	}
	var kind struct {
		Kind       string `json:"kind"`
		APIVersion string `json:"apiVersion"`
	}
	if err := json.Unmarshal(entry.Payload.Body, &kind); err != nil {
		return nil, err
	}
	return &protorekor.TransparencyLogEntry{
		LogIndex: entry.Payload.LogIndex, LogId: &protocommon.LogId{KeyId: log},
		KindVersion:       &protorekor.KindVersion{Kind: kind.Kind, Version: kind.APIVersion},
		IntegratedTime:    entry.Payload.IntegratedTime,
		InclusionPromise:  &protorekor.InclusionPromise{SignedEntryTimestamp: entry.SignedEntryTimestamp},
		CanonicalizedBody: entry.Payload.Body,
	}, nil
}
