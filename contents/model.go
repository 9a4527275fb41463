package contents

import (
	"bufio"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"kernelgw/jupyter/rest"
)

// What a model is of. Jupyter calls it its type.
const (
	typeDirectory = "directory"
	typeFile      = "file"
	typeNotebook  = "notebook"
)

// model is what Jupyter clients know of a file or directory. All keys are always
// there. Its content is written apart from it.
type model struct {
	Name          string    `json:"name"`
	Path          string    `json:"path"`
	Type          string    `json:"type"`
	Created       rest.Time `json:"created"`
	LastModified  rest.Time `json:"last_modified"`
	Mimetype      *string   `json:"mimetype"`
	Size          *int64    `json:"size"`
	Writable      bool      `json:"writable"`
	Format        *string   `json:"format"`
	Hash          *string   `json:"hash"`
	HashAlgorithm *string   `json:"hash_algorithm"`
	Message       string    `json:"message,omitempty"` // what is wrong with a notebook
	Content       *struct{} `json:"content"`           // null
}

// modelOf returns the model of an entry without content. kind "" is what its name
// says.
func modelOf(e Entry, kind string, hash bool) model {
	_, name := split(e.Path)
	m := model{
		Name: name, Path: e.Path, Type: kind, Writable: true,
		Created: rest.Time{Time: e.Created}, LastModified: rest.Time{Time: e.Modified},
	}
	if e.Directory {
		m.Type = typeDirectory
		return m
	}
	m.Size = &e.Size
	if m.Type == "" {
		m.Type = typeOf(e.Path)
	}
	if m.Type == typeFile {
		if kind := MimeType(name); kind != "" {
			m.Mimetype = &kind
		}
	}
	if hash && e.SHA256 != "" {
		m.Hash, m.HashAlgorithm = &e.SHA256, pointer("sha256")
	}
	return m
}

func typeOf(path string) string {
	if strings.HasSuffix(path, ".ipynb") {
		return typeNotebook
	}
	return typeFile
}

func pointer[T any](v T) *T { return &v }

// reply begins the answer that is a model: its headers. After it the status may be
// written.
func (m *model) reply(w http.ResponseWriter, e Entry) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Last-Modified", m.LastModified.UTC().Format(http.TimeFormat))
	if e.ETag != "" {
		w.Header().Set("ETag", etagOf(e))
	}
}

// etagOf returns an entry's ETag as HTTP has it.
func etagOf(e Entry) string { return `"` + strings.Trim(e.ETag, `"`) + `"` }

// write answers with a model without content.
func (m *model) write(w http.ResponseWriter, status int, e Entry) error {
	body, err := json.Marshal(m)
	if err != nil {
		return failed(err, e.Path)
	}
	m.reply(w, e)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // whoever left does not need it
	return nil
}

// writeWith answers with a model and its content, which f writes as JSON. When f
// fails, the answer breaks off, and no client takes that for JSON.
func (m *model) writeWith(w http.ResponseWriter, e Entry, f func(w *bufio.Writer) error) error {
	head, err := json.Marshal(m)
	if err != nil {
		return failed(err, e.Path)
	}
	m.reply(w, e)
	out := bufio.NewWriterSize(w, 32<<10)
	_, _ = out.Write(head[:len(head)-len(`null}`)]) // content is last
	if err := f(out); err == nil {
		_ = out.WriteByte('}')
	}
	_ = out.Flush() // whoever left does not need it
	return nil
}

// located sets the header that says where a new thing is.
func located(w http.ResponseWriter, at At, path string) {
	w.Header().Set("Location", at.Base+"api/contents/"+escapedPath(path))
}

// escapedPath returns a path for a URL, escaped as stock servers do it.
func escapedPath(p string) string {
	var out strings.Builder
	for i := range len(p) {
		switch c := p[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("/_.-~", c) >= 0:
			out.WriteByte(c)
		default:
			const upperHex = "0123456789ABCDEF"
			out.Write([]byte{'%', upperHex[c>>4], upperHex[c&15]})
		}
	}
	return out.String()
}
