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
	previous   link   // where the history goes on below this version
	move       string // what moved it here: see moveMark
}

// link names the version with which the history of a file goes on at the path
// where it was before: a move, which is a copy in S3, leaves that behind. The
// version may be gone since.
type link struct {
	Path    string    `json:"path"`
	Version string    `json:"version"`
	At      time.Time `json:"at"` // when it was written; whole seconds
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
	if m.previous.Path != "" {
		out["kgw-previous"] = base64.RawURLEncoding.EncodeToString([]byte(m.previous.Path))
		out["kgw-previous-version"] = url.QueryEscape(m.previous.Version)
		out["kgw-previous-at"] = strconv.FormatInt(m.previous.At.Unix(), 10)
	}
	if m.move != "" {
		out["kgw-move"] = url.QueryEscape(m.move)
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
		move:       unquery(in["kgw-move"]),
		author:     unquery(in["kgw-author"]),
	}
	if previous, err := base64.RawURLEncoding.DecodeString(in["kgw-previous"]); err == nil && len(previous) > 0 {
		if clean, err := contents.Clean(string(previous)); err == nil {
			m.previous = link{Path: clean, Version: unquery(in["kgw-previous-version"]), At: unix(in["kgw-previous-at"])}
		}
	}
	return m
}

func unquery(s string) string {
	plain, err := url.QueryUnescape(s)
	if err != nil {
		return ""
	}
	return plain
}

func unix(s string) time.Time {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= 0 {
		return time.Time{}
	}
	return time.Unix(n, 0).UTC()
}
