package jupyter

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
)

// Signer signs and verifies many messages under one key without allocating.
// It is not safe for concurrent use: each sender and each receiver has its own.
type Signer struct {
	mac hash.Hash // nil when the key is empty
	sum [sha256.Size]byte
	hex [2 * sha256.Size]byte
}

// NewSigner returns a Signer for key. Under an empty key messages are not
// signed: signatures are empty, and every signature is accepted.
func NewSigner(key []byte) *Signer {
	if len(key) == 0 {
		return &Signer{}
	}
	return &Signer{mac: hmac.New(sha256.New, key)}
}

// Sign returns what Sign of this package returns. The result is valid until the
// next call.
func (s *Signer) Sign(m *Message) []byte {
	if s.mac == nil {
		return nil
	}
	s.mac.Reset()
	s.mac.Write(m.Header)
	s.mac.Write(m.ParentHeader)
	s.mac.Write(m.Metadata)
	s.mac.Write(m.Content)
	hex.Encode(s.hex[:], s.mac.Sum(s.sum[:0]))
	return s.hex[:]
}

// Verify reports whether signature is m's, in constant time.
func (s *Signer) Verify(m *Message, signature []byte) bool {
	return s.mac == nil || hmac.Equal(s.Sign(m), signature)
}
