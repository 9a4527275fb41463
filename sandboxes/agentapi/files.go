package agentapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path"
	"strings"
	"time"
	"unicode/utf8"
)

// The files of a sandbox. The kernel's home directory is kept the same as the
// workspace, of which the gateway has the truth. A sandbox has no network, so
// the gateway dials:
//
//	GET  /v1/files/link   101, with "Upgrade: kernelgw-files"; a new link ends the one before
//	POST /v1/files/flush  200 FilesStatus when all that was written is in the store, 504 when that takes longer than FlushPatience
//	GET  /v1/files        200 FilesStatus
//
// On an upgraded connection the agent is the client of HTTP/2 and the gateway
// the server. The connection is the credential: it reaches one workspace.
//
//	GET    /manifest           200 NDJSON of FilesEntry, all of the workspace, and one with End
//	GET    /changes            200 NDJSON of FilesChange: an empty one at once and every few seconds, and each change from the first on
//	GET    /content?path=P     200 content with the headers ETag, and FilesExecutable if it is; 204 with FilesDirectory for a directory;
//	                           304 when If-None-Match is its ETag; 404
//	POST   /contents           200, for a JSON list of at most MaxFilesBatch paths: for each in turn a line of FilesEntry and, where that
//	                           has an ETag, Size bytes of content; then a line with End. Without ETag: ask for it alone
//	PUT    /content?path=P     200 FilesEntry; parents are made. If-Match: ETag or If-None-Match: *; 412 FilesEntry of what is there,
//	                           without ETag when nothing is; 400 for a name that cannot be stored, 409 when a directory or file is in the way,
//	                           413, 507 for the quota, 503 to try again
//	DELETE /content?path=P     204, to the trash; If-Match as above; 404
//	POST   /directory?path=P   200 FilesEntry; 409 when a file is in the way
//	DELETE /directory?path=P   204; 404; 409 when it is not empty
//
// Answers that are no success, beside 412, are {"message": "..."}.
const (
	FilesProtocol = "kernelgw-files"

	FilesManifest  = "/manifest"
	FilesChanges   = "/changes"
	FilesContent   = "/content"
	FilesContents  = "/contents"
	FilesDirectory = "/directory"
)

// Headers of the link.
const (
	FilesExecutableHeader = "Kernelgw-Executable" // "1"; of content, both ways
	FilesDirectoryHeader  = "Kernelgw-Directory"  // "1"
	FilesModifiedHeader   = "Kernelgw-Modified"   // seconds since 1970
)

// Limits of POST /contents.
const (
	MaxFilesBatch     = 256      // paths
	MaxFilesBatchSize = 64 << 10 // bytes of each file
)

// FilesHeartbeat is how often a stream of changes says something.
const FilesHeartbeat = 10 * time.Second

// FlushPatience is how long an agent lets the caller of a flush wait.
const FlushPatience = 20 * time.Second

// FilesConfig tells an agent to keep its kernel's home as the workspace is.
type FilesConfig struct {
	// StartPatience is how long the kernel waits for its files, after which it
	// starts without. Zero means DefaultFilesPatience.
	StartPatience time.Duration `json:"start_patience,omitempty"`
	// LargeBytes is from what size on a file comes after the kernel has started.
	// Zero means DefaultLargeFile.
	LargeBytes int64 `json:"large_bytes,omitempty"`
	// MaxFileBytes caps one file; larger ones stay in the sandbox. Zero means
	// DefaultMaxFile.
	MaxFileBytes int64 `json:"max_file_bytes,omitempty"`
	// Ignore are patterns of names, as path.Match takes them, that stay in the
	// sandbox, beside those that always do.
	Ignore []string `json:"ignore,omitempty"`
}

// Defaults of FilesConfig.
const (
	DefaultFilesPatience = 15 * time.Second
	DefaultLargeFile     = 8 << 20
	DefaultMaxFile       = 2 << 30
)

// FilesEntry is a file or directory of a workspace.
type FilesEntry struct {
	Path       string    `json:"path"`
	Directory  bool      `json:"directory,omitempty"`
	Size       int64     `json:"size,omitempty"`
	ETag       string    `json:"etag,omitempty"`
	SHA256     string    `json:"sha256,omitempty"` // "" when not known
	Modified   time.Time `json:"modified,omitzero"`
	Executable bool      `json:"executable,omitempty"`
	End        bool      `json:"end,omitempty"` // no entry: the manifest was complete
}

// FilesChange says that something may have happened to a path.
type FilesChange struct {
	Path string `json:"path,omitempty"`
	Gone bool   `json:"gone,omitempty"` // and all below it
	ETag string `json:"etag,omitempty"`
	Size int64  `json:"size,omitempty"`
	// Lost says that some changes could not be told: read the manifest.
	Lost bool `json:"lost,omitempty"`
}

// FilesStatus is how the files of a sandbox are.
type FilesStatus struct {
	Linked    bool   `json:"linked"`     // there is a way to the store
	Pulled    bool   `json:"pulled"`     // what the kernel needs at its start is there
	Files     int    `json:"files"`      // files and directories that are the same on both sides
	Waiting   int    `json:"waiting"`    // paths that are not, yet
	WaitBytes int64  `json:"wait_bytes"` // of these, as far as it is known
	Local     int    `json:"local"`      // of these, changes made in the sandbox
	Kept      int    `json:"kept"`       // files that stay in the sandbox: too large, no room, a name that cannot be
	Conflicts int    `json:"conflicts"`  // files that were kept twice, in total
	Notice    string `json:"notice,omitempty"`
}

// CheckFilesPath reports whether p may be the path of a file in a workspace and
// in a sandbox: relative, clean, of names that every file system takes. Both
// ends of a link check what the other says.
func CheckFilesPath(p string) error {
	const longest, longestName, deepest = 1024, 255, 64
	switch {
	case p == "":
		return errors.New("the path is empty")
	case len(p) > longest:
		return fmt.Errorf("the path is longer than %d bytes", longest)
	case !utf8.ValidString(p):
		return errors.New("the path is not UTF-8")
	case strings.ContainsRune(p, 0):
		return errors.New("the path holds a zero byte")
	case path.Clean("/"+p) != "/"+p:
		return errors.New("the path is not clean")
	case strings.Count(p, "/") >= deepest:
		return fmt.Errorf("the path is deeper than %d directories", deepest)
	}
	for name := range strings.SplitSeq(p, "/") {
		if len(name) > longestName {
			return fmt.Errorf("a name is longer than %d bytes", longestName)
		}
	}
	return nil
}

// FilesStatus returns how the sandbox's files are.
func (c *Client) FilesStatus(ctx context.Context) (FilesStatus, error) {
	return call[FilesStatus](ctx, c, http.MethodGet, "/v1/files", callTimeout)
}

// FlushFiles returns when all that was written in the sandbox is in the store.
// A *StatusError with code 504 says that this takes too long.
func (c *Client) FlushFiles(ctx context.Context) (FilesStatus, error) {
	return call[FilesStatus](ctx, c, http.MethodPost, "/v1/files/flush", FlushPatience+callTimeout)
}

// LinkFiles opens a link for the sandbox's files. The caller serves HTTP/2 on
// it, and closes it. ctx bounds the attempt, not the link.
func (c *Client) LinkFiles(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, errSilent)
	defer cancel()
	conn, err := c.DialRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot link the sandbox's files: %w", err)
	}
	linked, err := c.upgrade(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot link the sandbox's files: %w", err)
	}
	return linked, nil
}

// upgrade asks for a link on conn.
func (c *Client) upgrade(ctx context.Context, conn net.Conn) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/v1/files/link", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", FilesProtocol)
	if err := req.Write(conn); err != nil {
		return nil, explain(ctx, err)
	}
	// No more than a header can be: the rest belongs to the link, and an answer
	// without end is none.
	limited := &headerReader{Conn: conn, left: MaxHeaderBytes}
	buffered := bufio.NewReader(limited)
	resp, err := http.ReadResponse(buffered, req)
	if err != nil {
		return nil, explain(ctx, err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		return nil, refusal(resp)
	}
	if !strings.EqualFold(resp.Header.Get("Upgrade"), FilesProtocol) {
		return nil, fmt.Errorf("%w: it upgraded to something else", ErrLies)
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	limited.left = -1
	return &linkConn{Conn: conn, head: buffered}, nil
}

// headerReader reads so many bytes of a connection and then fails; no limit
// when left is negative.
type headerReader struct {
	net.Conn
	left int
}

// Read implements io.Reader.
func (r *headerReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, errors.New("the header is too long")
	}
	if r.left > 0 && len(p) > r.left {
		p = p[:r.left]
	}
	n, err := r.Conn.Read(p)
	if r.left > 0 {
		r.left -= n
	}
	return n, err
}

// linkConn is a connection of which a first piece was read already.
type linkConn struct {
	net.Conn
	head *bufio.Reader // ends in Conn
}

// Read implements net.Conn.
func (c *linkConn) Read(p []byte) (int, error) { return c.head.Read(p) }
