package jupyter

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
)

// Sign returns the hex HMAC-SHA256 signature of m under key ("Messaging in
// Jupyter", section "The Wire Protocol"). An empty key means that messages are
// not signed, and the signature is empty. Safe for concurrent use.
func Sign(key []byte, m *Message) string {
	if len(key) == 0 {
		return ""
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(m.Header)
	mac.Write(m.ParentHeader)
	mac.Write(m.Metadata)
	mac.Write(m.Content)
	return hex.EncodeToString(mac.Sum(nil))
}

// Verify reports whether signature is m's signature under key, in constant
// time. An empty key accepts every signature.
func Verify(key []byte, m *Message, signature []byte) bool {
	return len(key) == 0 || hmac.Equal([]byte(Sign(key, m)), signature)
}
