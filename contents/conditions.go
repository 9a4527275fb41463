package contents

import (
	"net/http"
	"strings"
)

// Beyond Jupyter's protocol, a change may name what it changes: If-Match with the
// ETag of an answer, or with "v:" and a version, and If-None-Match: * for a file
// that must be new. If that is not what is there, the answer is 412 and says who
// was faster, and when.

// conditions are what a request says of the file that it changes.
type conditions struct {
	etag, version string // "" is no condition
	exists        bool   // any file or directory will do
	none          bool   // there must be none
}

func conditionsOf(header http.Header) (c conditions, err error) {
	match := strings.TrimSpace(header.Get("If-Match"))
	switch tag, quoted := strings.CutPrefix(match, `"`); {
	case match == "":
	case match == "*":
		c.exists = true
	case !quoted || len(tag) < 2 || strings.IndexByte(tag, '"') != len(tag)-1:
		return c, fail(http.StatusBadRequest, "If-Match must be one quoted ETag")
	default:
		tag = tag[:len(tag)-1]
		if version, ok := strings.CutPrefix(tag, "v:"); ok {
			c.version = version
		} else {
			c.etag = tag
		}
	}
	switch none := strings.TrimSpace(header.Get("If-None-Match")); none {
	case "":
	case "*":
		c.none = true
	default:
		return c, fail(http.StatusBadRequest, "If-None-Match must be *")
	}
	return c, nil
}

// met checks the conditions against what is there; an entry without ETag is
// nothing. The store checks etag, version and none once more, when it writes.
func (c conditions) met(current Entry) error {
	is := strings.Trim(current.ETag, `"`)
	if c.none && (is != "" || current.Directory) || c.exists && is == "" && !current.Directory || c.etag != "" && c.etag != is || c.version != "" && c.version != current.Version {
		return failed(&ChangedError{current}, current.Path)
	}
	return nil
}

// options are the conditions as the store wants them. raw is the store's own ETag
// of what met them.
func (c conditions) options(at At, current Entry) PutOptions {
	o := PutOptions{Author: at.User, IfNone: c.none, IfVersion: c.version, Executable: current.Executable}
	if c.etag != "" || c.exists {
		o.IfMatch = current.ETag
	}
	return o
}
