package agentapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Limits of a conversion.
const (
	MaxNotebookBytes = 128 << 20        // of what is converted
	MaxDocumentBytes = 256 << 20        // of what is made of it
	ConvertPatience  = 60 * time.Second // of nbconvert, after which it is killed
)

// transferPatience is how long a notebook may take to an agent, on top of
// ConvertPatience.
const transferPatience = 2 * time.Minute

// maxExporters bounds what is believed of an agent.
const maxExporters = 100

// Exporter is something that an image's nbconvert makes of notebooks.
type Exporter struct {
	Mimetype string `json:"output_mimetype"` // as ValidMimetype takes it, or ""
}

// ConvertRequest says what is to be made of a notebook.
type ConvertRequest struct {
	Exporter string `json:"exporter"` // as ValidExporter takes it
	// Path is the notebook's, relative to the home directory. The document is
	// named like it, and pictures are looked for beside it.
	Path     string    `json:"path,omitempty"`
	Modified time.Time `json:"modified,omitzero"`
	Sanitize *bool     `json:"sanitize,omitempty"` // of html only; nil: as nbconvert is configured
	// Posted says that what is sent is a model of Jupyter's contents API, which
	// has the notebook in it and may name it, instead of a notebook.
	Posted bool `json:"posted,omitempty"`
}

// Document is what was made of a notebook.
type Document struct {
	Mimetype   string `json:"mimetype"`   // as ValidMimetype takes it, or ""
	Filename   string `json:"filename"`   // a name without a path
	Attachment bool   `json:"attachment"` // it is an archive: nothing to look at
	Size       int64  `json:"size"`       // bytes
}

var (
	exporterName = regexp.MustCompile(`^\w{1,64}$`)
	mimetype     = regexp.MustCompile(`^[a-z0-9][a-z0-9!#$&^_.+-]{0,60}/[a-z0-9][a-z0-9!#$&^_.+-]{0,60}$`)
)

// ValidExporter reports whether name may be that of an exporter. It is safe in a
// URL.
func ValidExporter(name string) bool { return exporterName.MatchString(name) }

// ValidMimetype reports whether s is a media type without parameters.
func ValidMimetype(s string) bool { return mimetype.MatchString(s) }

// check reports what an agent cannot mean.
func (d Document) check() error {
	switch {
	case d.Size < 0 || d.Size > MaxDocumentBytes:
		return fmt.Errorf("%w: a document of %d bytes", ErrLies, d.Size)
	case d.Mimetype != "" && !ValidMimetype(d.Mimetype):
		return fmt.Errorf("%w: a document of no media type", ErrLies)
	case d.Filename == "" || len(d.Filename) > 300 || strings.ContainsAny(d.Filename, `/\`) ||
		!utf8.ValidString(d.Filename) || strings.ContainsFunc(d.Filename, unicode.IsControl):
		return fmt.Errorf("%w: a document of a name that cannot be", ErrLies)
	}
	return nil
}

// Exporters returns what the sandbox's nbconvert can make: nothing when there is
// none.
func (c *Client) Exporters(ctx context.Context) (map[string]Exporter, error) {
	told, err := call[map[string]Exporter](ctx, c, http.MethodGet, "/v1/exporters", ConvertPatience)
	if err != nil {
		return nil, err
	}
	known := map[string]Exporter{}
	for name, e := range told {
		if len(known) < maxExporters && ValidExporter(name) && (e.Mimetype == "" || ValidMimetype(e.Mimetype)) {
			known[name] = e
		}
	}
	return known, nil
}

// Convert has a notebook converted. The content must be closed, and ends with an
// error when it is not all of the document. A *StatusError has one of the codes
// of the contract; its message is for the user.
func (c *Client) Convert(ctx context.Context, r ConvertRequest, notebook io.Reader) (d Document, content io.ReadCloser, err error) {
	request, err := json.Marshal(r)
	if err != nil {
		return d, nil, fmt.Errorf("cannot call the agent: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	silent := time.AfterFunc(ConvertPatience+transferPatience, func() { cancel(errSilent) })
	resp, err := c.roundTrip(ctx, http.MethodPost, "/v1/convert?request="+url.QueryEscape(string(request)), io.NopCloser(notebook))
	if err != nil {
		cancel(nil)
		return d, nil, fmt.Errorf("cannot call the agent: %w", err)
	}
	d, answer, err := readDocument(resp.Body)
	silent.Stop() // from here on the caller sets the pace
	if err != nil {
		if !errors.Is(err, ErrLies) {
			err = explain(ctx, err)
		}
		resp.Body.Close()
		cancel(nil)
		return Document{}, nil, fmt.Errorf("cannot call the agent: %w", err)
	}
	return d, &documentBody{from: answer, left: d.Size, close: func() error {
		defer cancel(nil)
		return resp.Body.Close()
	}}, nil
}

// readDocument reads the line before a document. The error is ErrLies, or that of
// the answer.
func readDocument(answer io.Reader) (d Document, content io.Reader, err error) {
	d, content, err = readLine[Document](answer, MaxLineBytes, "document")
	if err != nil {
		return d, nil, err
	}
	return d, content, d.check()
}

// readLine reads the line of JSON that an answer begins with, of at most so many
// bytes, and returns what follows. The error is ErrLies, or that of the answer.
func readLine[T any](answer io.Reader, most int, what string) (v T, rest *bufio.Reader, err error) {
	rest = bufio.NewReaderSize(answer, most)
	line, err := rest.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		err = fmt.Errorf("%w: a line of more than %d bytes", ErrLies, most)
	case err == nil && json.Unmarshal(line, &v) != nil:
		err = fmt.Errorf("%w: the answer is no %s", ErrLies, what)
	}
	return v, rest, err
}

// documentBody is so many bytes of an answer.
type documentBody struct {
	from  io.Reader
	left  int64
	close func() error
}

// Read implements io.Reader.
func (b *documentBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.from.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if errors.Is(err, io.EOF) && b.left > 0 {
		err = fmt.Errorf("%w: it broke off", ErrGone)
	}
	return n, err
}

// Close implements io.Closer.
func (b *documentBody) Close() error { return b.close() }
