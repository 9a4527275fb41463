package s3store

import (
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"

	"kernelgw/contents"
)

// How paths become keys. A file a/b.txt is f/a!/b.txt, and the directory a has
// the marker f/a!d besides, an object without content. So
//
//   - a file and a directory of one name never meet, not even when one of them
//     was deleted and its versions are still there: servers that keep objects in
//     a file system refuse that;
//   - a listing shows each directory with its time, and needs no prefix that a
//     server may show for a directory whose files are all deleted;
//   - "!" itself, and what some servers or XML cannot hold, is written as ! and
//     two hexadecimal digits, so that no name can look like a marker;
//   - a name that is longer so than a name on a file system may be is continued
//     after "!+/".
const (
	maxKeyBytes  = 1024 // of S3
	maxPartBytes = 240  // between two slashes: file systems have 255, and an end follows
	markerEnd    = "!d"
	directoryEnd = "!/"
	continuedEnd = "!+/"

	filesPart       = "f/"
	checkpointsPart = "m/cp/"
	journalPart     = "m/journal/"
	trashPart       = "m/trash/"
)

const hexDigits = "0123456789ABCDEF"

// escapeName returns a name as it is within a key.
func escapeName(name string) string {
	clean := true
	for i := range len(name) {
		if c := name[i]; c < 0x20 || c == '!' || c == '\\' || c >= 0x7f {
			clean = false
			break
		}
	}
	if clean {
		return cut(name, maxPartBytes, continuedEnd)
	}
	var b strings.Builder
	for i := 0; i < len(name); {
		r, size := utf8.DecodeRuneInString(name[i:])
		if r < 0x20 || r == 0x7f || r == '!' || r == '\\' || r == 0xfffe || r == 0xffff || r == utf8.RuneError && size == 1 {
			for _, c := range []byte(name[i : i+size]) {
				b.Write([]byte{'!', hexDigits[c>>4], hexDigits[c&15]})
			}
		} else {
			b.WriteString(name[i : i+size])
		}
		i += size
	}
	return cut(b.String(), maxPartBytes, continuedEnd)
}

// cut cuts a word into parts of at most so many bytes, between characters. All
// but the last have an end, so that none is both a directory and a file on a
// server that keeps them so.
func cut(word string, size int, end string) string {
	var b strings.Builder
	for len(word) > size {
		n := size
		for n > 0 && !utf8.RuneStart(word[n]) {
			n--
		}
		b.WriteString(word[:n])
		b.WriteString(end)
		word = word[n:]
	}
	b.WriteString(word)
	return b.String()
}

// unescapeName is the reverse; false when the name was not made by escapeName.
func unescapeName(escaped string) (string, bool) {
	escaped = strings.ReplaceAll(escaped, continuedEnd, "")
	if !strings.Contains(escaped, "!") {
		return escaped, escaped != ""
	}
	var b strings.Builder
	for i := 0; i < len(escaped); i++ {
		if escaped[i] != '!' {
			b.WriteByte(escaped[i])
			continue
		}
		if i+2 >= len(escaped) {
			return "", false
		}
		high, low := strings.IndexByte(hexDigits, escaped[i+1]), strings.IndexByte(hexDigits, escaped[i+2])
		if high < 0 || low < 0 {
			return "", false
		}
		b.WriteByte(byte(high<<4 | low))
		i += 2
	}
	name := b.String()
	return name, name != ""
}

// escapeWord returns an opaque string as one segment of a key.
func escapeWord(word string) string {
	var b strings.Builder
	for i := range len(word) {
		c := word[i]
		plain := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.' && i > 0
		if plain {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'!', hexDigits[c>>4], hexDigits[c&15]})
		}
	}
	return b.String()
}

// fileKey returns where a file is, below filesPart.
func fileKey(path string) string {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return escapeName(path)
	}
	return directoryKey(path[:i]) + escapeName(path[i+1:])
}

// markerKey returns where the marker of a directory is; the root has none.
func markerKey(path string) string { return fileKey(path) + markerEnd }

// directoryKey returns what the keys of all that is in a directory begin with.
func directoryKey(path string) string {
	if path == "" {
		return ""
	}
	var b strings.Builder
	for name := range strings.SplitSeq(path, "/") {
		b.WriteString(escapeName(name))
		b.WriteString(directoryEnd)
	}
	return b.String()
}

// parseKey is the reverse of fileKey and of markerKey. It refuses what neither
// makes: others may have put objects into the bucket.
func parseKey(key string) (path string, directory, ok bool) {
	file, directory := strings.CutSuffix(key, markerEnd)
	var b strings.Builder
	segments := strings.Split(strings.ReplaceAll(file, continuedEnd, ""), "/")
	for i, segment := range segments {
		if i+1 < len(segments) {
			if segment, ok = strings.CutSuffix(segment, "!"); !ok {
				return "", false, false
			}
		}
		if i > 0 {
			b.WriteByte('/')
		}
		name, ok := unescapeName(segment)
		if !ok {
			return "", false, false
		}
		b.WriteString(name)
	}
	path = b.String()
	clean, err := contents.Clean(path)
	if err != nil || clean != path || fileKey(path) != file {
		return "", false, false
	}
	return path, directory, true
}

// checkPath returns a path that the store can keep, or ErrInvalid.
func (s *Store) checkPath(workspace, path string) error {
	if clean, err := contents.Clean(path); err != nil {
		return err
	} else if clean != path {
		return fmt.Errorf("%w: %q is not clean", contents.ErrInvalid, path)
	}
	longest := s.base(workspace) + checkpointsPart + markerKey(path)
	if len(longest) > maxKeyBytes {
		return fmt.Errorf("%w: it is too long for the storage", contents.ErrInvalid)
	}
	return nil
}

// base returns what the keys of a workspace begin with.
func (s *Store) base(workspace string) string {
	return s.prefix + "v1/" + escapeWord(workspace) + "/"
}

func parent(path string) string {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i]
	}
	return ""
}

// within reports whether path is directory, or below it.
func within(directory, path string) bool {
	return directory == "" || path == directory || strings.HasPrefix(path, directory+"/")
}

// Documents: names are opaque and may be long. They are escaped, or encoded
// whole where that would be too long, and cut into segments that every server
// takes.
const (
	documentsPart   = "v1/!documents/" // no workspace is escaped to that
	documentSegment = 200
	longDocument    = 500
	encodedDocument = "!b"
)

func (s *Store) documentsOf(owner string) string {
	return s.prefix + documentsPart + cut(escapeWord(owner), documentSegment, directoryEnd) + directoryEnd
}

func documentKey(name string) string {
	escaped := escapeWord(name)
	if len(escaped) > longDocument {
		escaped = encodedDocument + base64.RawURLEncoding.EncodeToString([]byte(name))
	}
	return cut(escaped, documentSegment, directoryEnd)
}

func parseDocumentKey(key string) (name string, ok bool) {
	word := strings.ReplaceAll(key, directoryEnd, "")
	if encoded, is := strings.CutPrefix(word, encodedDocument); is {
		decoded, err := base64.RawURLEncoding.DecodeString(encoded)
		return string(decoded), err == nil
	}
	return unescapeWord(word)
}

// unescapeWord is the reverse of escapeWord.
func unescapeWord(word string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(word); i++ {
		if word[i] != '!' {
			b.WriteByte(word[i])
			continue
		}
		if i+2 >= len(word) {
			return "", false
		}
		high, low := strings.IndexByte(hexDigits, word[i+1]), strings.IndexByte(hexDigits, word[i+2])
		if high < 0 || low < 0 {
			return "", false
		}
		b.WriteByte(byte(high<<4 | low))
		i += 2
	}
	return b.String(), true
}
