package s3store

import (
	"encoding/base64"
	"net/url"
	"strconv"
	"strings"
	"time"

	"kernelgw/contents"
)

// metadata is what an object says about a version besides its content: 2 KiB, in
// ASCII, on every server.
type metadata struct {
	sha256     string    // of the content, hex
	created    time.Time // when the file began
	author     string
	source     string // as contents.Version
	executable bool
	nonce      string // of the write that made it, to know one's own again
	// A version that took over the history of another path has these: the path,
	// and when its content was written there.
	previous   string
	previousAt time.Time
	move       string // id of the move that made it
}

const maxAuthorBytes = 128

func (m metadata) encode() map[string]string {
	out := map[string]string{
		"kgw-sha256":  m.sha256,
		"kgw-created": strconv.FormatInt(m.created.Unix(), 10),
		"kgw-source":  m.source,
	}
	if m.author != "" {
		out["kgw-author"] = url.QueryEscape(clip(m.author, maxAuthorBytes))
	}
	if m.executable {
		out["kgw-executable"] = "1"
	}
	if m.nonce != "" {
		out["kgw-nonce"] = m.nonce
	}
	if m.previous != "" {
		out["kgw-previous"] = base64.RawURLEncoding.EncodeToString([]byte(m.previous))
		out["kgw-previous-at"] = strconv.FormatInt(m.previousAt.Unix(), 10)
	}
	if m.move != "" {
		out["kgw-move"] = m.move
	}
	return out
}

// clip shortens a text to so many bytes, between characters.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

func decodeMetadata(in map[string]string) metadata {
	m := metadata{
		sha256:     in["kgw-sha256"],
		created:    unix(in["kgw-created"]),
		source:     in["kgw-source"],
		executable: in["kgw-executable"] == "1",
		nonce:      in["kgw-nonce"],
		previousAt: unix(in["kgw-previous-at"]),
		move:       in["kgw-move"],
	}
	if author, err := url.QueryUnescape(in["kgw-author"]); err == nil {
		m.author = author
	}
	if previous, err := base64.RawURLEncoding.DecodeString(in["kgw-previous"]); err == nil {
		if clean, err := contents.Clean(string(previous)); err == nil {
			m.previous = clean
		}
	}
	return m
}

func unix(s string) time.Time {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= 0 {
		return time.Time{}
	}
	return time.Unix(n, 0).UTC()
}
