package filesync

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"kernelgw/sandboxes/agentapi"
)

// Limits on what is taken from a link.
const (
	maxLine    = 16 << 10
	maxAnswer  = 64 << 10
	maxEntries = 1_000_000
	silence    = 20 * time.Second
)

// remote is the store, at the other end of one link.
type remote struct {
	ctx       context.Context // ends with the link
	cancel    context.CancelFunc
	conn      net.Conn
	http      *http.ClientConn
	transport *http.Transport
}

// answerError is an answer that is no success.
type answerError struct {
	status  int
	message string
}

// Error implements error.
func (e *answerError) Error() string { return fmt.Sprintf("%s (%d)", e.message, e.status) }

// statusOf is the status of an answer that is no success, 0 when there is none.
func statusOf(err error) int {
	var no *answerError
	if errors.As(err, &no) {
		return no.status
	}
	return 0
}

// overtaken says that the store's file is not what a condition said. Its entry
// has no ETag when there is none.
type overtaken struct{ entry agentapi.FilesEntry }

// Error implements error.
func (e *overtaken) Error() string { return "the file was changed in the store" }

// newRemote begins to speak HTTP/2 on conn.
func newRemote(ctx context.Context, conn net.Conn) (*remote, error) {
	ctx, cancel := context.WithCancel(ctx)
	watched := &watchedConn{conn, cancel}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{
		DialContext:            func(context.Context, string, string) (net.Conn, error) { return watched, nil },
		Protocols:              &protocols,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxAnswer,
		HTTP2: &http.HTTP2Config{
			SendPingTimeout:  silence,
			PingTimeout:      silence,
			WriteByteTimeout: silence,
		},
	}
	client, err := transport.NewClientConn(ctx, "http", "files:80")
	if err != nil {
		cancel()
		return nil, err
	}
	return &remote{ctx, cancel, watched, client, transport}, nil
}

// close ends the link. It may be called again.
func (r *remote) close() {
	r.cancel()
	r.conn.Close()
	r.http.Close()
}

// watchedConn ends a context when its connection is over.
type watchedConn struct {
	net.Conn
	over context.CancelFunc
}

// Read implements net.Conn.
func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.over()
	}
	return n, err
}

// Close implements net.Conn.
func (c *watchedConn) Close() error {
	c.over()
	return c.Conn.Close()
}

// do does a request. The answer's body must be closed.
func (r *remote) do(ctx context.Context, method, route, p string, body io.Reader, size int64, header http.Header) (*http.Response, error) {
	target := "http://files" + route
	if p != "" {
		target += "?" + url.Values{"path": {p}}.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = size
	if header != nil {
		req.Header = header
	}
	return r.http.RoundTrip(req)
}

// refusal reads an answer that is no success.
func refusal(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode == http.StatusPreconditionFailed {
		var e agentapi.FilesEntry
		if err == nil {
			err = json.Unmarshal(body, &e)
		}
		if err != nil {
			return fmt.Errorf("cannot read an answer of the store: %w", err)
		}
		return &overtaken{e}
	}
	var text struct {
		Message string `json:"message"`
	}
	if err != nil || json.Unmarshal(body, &text) != nil || text.Message == "" {
		text.Message = http.StatusText(resp.StatusCode)
	}
	return &answerError{resp.StatusCode, text.Message}
}

// manifest calls each for every entry of the workspace.
func (r *remote) manifest(ctx context.Context, each func(agentapi.FilesEntry)) error {
	resp, err := r.do(ctx, http.MethodGet, agentapi.FilesManifest, "", nil, 0, nil)
	if err != nil {
		return fmt.Errorf("cannot read the list of files: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("cannot read the list of files: %w", refusal(resp))
	}
	return readManifest(resp.Body, each)
}

// readManifest calls each for every entry. It is an error when the last line does
// not come.
func readManifest(body io.Reader, each func(agentapi.FilesEntry)) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxLine)
	for n := 0; lines.Scan(); n++ {
		var e agentapi.FilesEntry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("cannot read the list of files: %w", err)
		}
		if e.End {
			return nil
		}
		if n > maxEntries {
			return errors.New("cannot read the list of files: it is too long")
		}
		if agentapi.CheckFilesPath(e.Path) == nil {
			each(e)
		}
	}
	return fmt.Errorf("cannot read the list of files: %w", cmp.Or(lines.Err(), io.ErrUnexpectedEOF))
}

// changes sends what the store tells to lines, until the link ends.
func (r *remote) changes(ctx context.Context, lines chan<- agentapi.FilesChange) error {
	resp, err := r.do(ctx, http.MethodGet, agentapi.FilesChanges, "", nil, 0, nil)
	if err != nil {
		return fmt.Errorf("cannot follow the store: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("cannot follow the store: %w", refusal(resp))
	}
	silent := time.AfterFunc(3*agentapi.FilesHeartbeat, r.close)
	defer silent.Stop()
	return readChanges(ctx, resp.Body, func() { silent.Reset(3 * agentapi.FilesHeartbeat) }, lines)
}

// readChanges sends each line to lines, and calls heard before.
func readChanges(ctx context.Context, body io.Reader, heard func(), lines chan<- agentapi.FilesChange) error {
	read := bufio.NewScanner(body)
	read.Buffer(nil, maxLine)
	for read.Scan() {
		heard()
		var c agentapi.FilesChange
		if err := json.Unmarshal(read.Bytes(), &c); err != nil {
			return fmt.Errorf("cannot follow the store: %w", err)
		}
		select {
		case lines <- c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fmt.Errorf("cannot follow the store: %w", cmp.Or(read.Err(), io.EOF))
}

// content is a file of the store as it comes.
type content struct {
	io.ReadCloser
	size       int64
	etag       string
	directory  bool // then there is nothing to read
	unchanged  bool // then there is nothing to read
	executable bool
	modified   time.Time
}

// get opens a file of the store, unless it is at the version known. The answer is
// nil when there is no such file.
func (r *remote) get(ctx context.Context, p, known string) (*content, error) {
	header := http.Header{}
	if known != "" && known != directoryTag {
		header.Set("If-None-Match", known)
	}
	resp, err := r.do(ctx, http.MethodGet, agentapi.FilesContent, p, nil, 0, header)
	if err != nil {
		return nil, err
	}
	c := &content{ReadCloser: resp.Body, size: resp.ContentLength, etag: resp.Header.Get("ETag")}
	switch resp.StatusCode {
	case http.StatusOK:
		seconds, err := strconv.ParseInt(resp.Header.Get(agentapi.FilesModifiedHeader), 10, 64)
		if err != nil || c.etag == "" || c.size < 0 {
			resp.Body.Close()
			return nil, errors.New("an answer of the store says too little")
		}
		c.modified = time.Unix(seconds, 0)
		c.executable = resp.Header.Get(agentapi.FilesExecutableHeader) == "1"
		return c, nil
	case http.StatusNoContent:
		c.directory = resp.Header.Get(agentapi.FilesDirectoryHeader) == "1"
		c.etag = directoryTag
		return c, nil
	case http.StatusNotModified:
		c.unchanged = true
		return c, nil
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return nil, nil
	}
	return nil, refusal(resp)
}

// batch reads many small files in one answer and calls each for them, in order.
// An entry without ETag is to be asked for alone.
func (r *remote) batch(ctx context.Context, paths []string, each func(agentapi.FilesEntry, []byte)) error {
	body, err := json.Marshal(paths)
	if err != nil {
		return err
	}
	resp, err := r.do(ctx, http.MethodPost, agentapi.FilesContents, "", bytes.NewReader(body), int64(len(body)), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return refusal(resp)
	}
	return readBatch(resp.Body, each)
}

// readBatch calls each for every file of an answer. It is an error when the last
// line does not come.
func readBatch(body io.Reader, each func(agentapi.FilesEntry, []byte)) error {
	read := bufio.NewReaderSize(body, maxLine)
	for {
		line, err := read.ReadSlice('\n')
		var e agentapi.FilesEntry
		if err == nil {
			err = json.Unmarshal(line, &e)
		}
		if err != nil {
			return fmt.Errorf("cannot read files: %w", err)
		}
		if e.End {
			return nil
		}
		if e.Size < 0 || e.Size > agentapi.MaxFilesBatchSize {
			return errors.New("cannot read files: one is larger than it may be")
		}
		var content []byte
		if e.ETag != "" {
			content = make([]byte, e.Size)
			if _, err := io.ReadFull(read, content); err != nil {
				return fmt.Errorf("cannot read files: %w", err)
			}
		}
		each(e, content)
	}
}

// put writes a file to the store if that has it at the version known, or has
// none when known is "".
func (r *remote) put(ctx context.Context, p string, body io.Reader, size int64, known string, executable bool) (agentapi.FilesEntry, error) {
	header := http.Header{}
	condition(header, known)
	if executable {
		header.Set(agentapi.FilesExecutableHeader, "1")
	}
	if size == 0 {
		body = http.NoBody
	}
	return r.entry(ctx, http.MethodPut, agentapi.FilesContent, p, body, size, header)
}

func condition(h http.Header, known string) {
	if known == "" || known == directoryTag {
		h.Set("If-None-Match", "*")
	} else {
		h.Set("If-Match", known)
	}
}

func (r *remote) makeDirectory(ctx context.Context, p string) error {
	_, err := r.entry(ctx, http.MethodPost, agentapi.FilesDirectory, p, nil, 0, nil)
	return err
}

// entry does a request that answers an entry.
func (r *remote) entry(ctx context.Context, method, route, p string, body io.Reader, size int64, header http.Header) (agentapi.FilesEntry, error) {
	var e agentapi.FilesEntry
	resp, err := r.do(ctx, method, route, p, body, size, header)
	if err != nil {
		return e, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return e, refusal(resp)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&e); err != nil {
		return e, fmt.Errorf("cannot read an answer of the store: %w", err)
	}
	return e, nil
}

// remove deletes a file of the version known, or an empty directory. What is not
// there is no error.
func (r *remote) remove(ctx context.Context, p, known string) error {
	route, header := agentapi.FilesContent, http.Header{}
	if known == directoryTag {
		route = agentapi.FilesDirectory
	} else {
		header.Set("If-Match", known)
	}
	resp, err := r.do(ctx, http.MethodDelete, route, p, nil, 0, header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotFound {
		return nil
	}
	return refusal(resp)
}
