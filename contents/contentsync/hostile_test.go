package contentsync_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"

	"kernelgw/contents"
	"kernelgw/contents/contentstest"
	"kernelgw/contents/contentsync"
	"kernelgw/sandboxes/agentapi"
)

// The other end of the links here is no agent but an attacker.

// attacker is one end of a link.
type attacker struct {
	t     testing.TB
	store *contentstest.Fake
	spool string
	conn  net.Conn
	http  *http.ClientConn
	over  chan error // how Serve ended
}

func attack(t testing.TB, change func(*contentsync.Options)) *attacker {
	t.Helper()
	a := &attacker{t: t, store: contentstest.NewFake(), spool: t.TempDir(), over: make(chan error, 1)}
	o := contentsync.Options{Store: a.store, SpoolDir: a.spool, MaxFileBytes: 1 << 20}
	if change != nil {
		change(&o)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := [2]net.Conn{}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "link")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	a.conn = ends[0]
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.over <- contentsync.New(o).Serve(ctx, ends[1], "w", "attacker")
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		a.conn.Close()
		if left, _ := os.ReadDir(a.spool); len(left) > 0 {
			t.Errorf("left in the spool: %v", left)
		}
	})
	return a
}

// speak begins HTTP/2.
func (a *attacker) speak() *attacker {
	a.t.Helper()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return a.conn, nil },
		Protocols:   &protocols,
	}
	var err error
	if a.http, err = transport.NewClientConn(a.t.Context(), "http", "x:80"); err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { a.http.Close() })
	return a
}

func (a *attacker) do(method, target string, body io.Reader, header ...string) (int, string) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://x"+target, body)
	if err != nil {
		a.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := a.http.RoundTrip(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

func content(p string) string {
	return agentapi.FilesContent + "?" + url.Values{"path": {p}}.Encode()
}

func TestAttackNamesOverTheLink(t *testing.T) {
	a := attack(t, nil).speak()
	for _, p := range []string{
		"", "/", "/etc/passwd", "..", "../other/f", "a/../../b", "a//b", "a/", "./a", "a/.", "a\x00b", "a\\b", "a\nb", "\xff",
		strings.Repeat("n", 256), strings.Repeat("d/", 600) + "f", strings.Repeat("n", 5000),
	} {
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			if code, text := a.do(method, content(p), strings.NewReader("x"), "If-None-Match", "*", "If-Match", "x"); code != http.StatusBadRequest {
				t.Errorf("%s %.40q: %d %s", method, p, code, text)
			}
		}
		for _, method := range []string{"POST", "DELETE"} {
			if code, text := a.do(method, agentapi.FilesDirectory+"?path="+url.QueryEscape(p), nil); code != http.StatusBadRequest {
				t.Errorf("%s directory %.40q: %d %s", method, p, code, text)
			}
		}
	}
	for _, target := range []string{"/", "/../content?path=a", "/v1/status", "/content/../manifest", "/api/contents"} {
		if code, _ := a.do("GET", target, nil); code == http.StatusOK {
			t.Errorf("%s: %d", target, code)
		}
	}
}

func TestAttackWritesWithoutACondition(t *testing.T) {
	a := attack(t, nil).speak()
	if code, text := a.do("PUT", content("f"), strings.NewReader("x")); code != http.StatusPreconditionRequired {
		t.Errorf("PUT: %d %s", code, text)
	}
	if code, text := a.do("PUT", content("f"), strings.NewReader("x"), "If-None-Match", "*"); code != http.StatusOK {
		t.Fatalf("PUT of a new file: %d %s", code, text)
	}
	if code, text := a.do("DELETE", content("f"), nil); code != http.StatusPreconditionRequired {
		t.Errorf("DELETE: %d %s", code, text)
	}
	code, text := a.do("PUT", content("f"), strings.NewReader("y"), "If-None-Match", "*")
	var e agentapi.FilesEntry
	if err := json.Unmarshal([]byte(text), &e); code != http.StatusPreconditionFailed || err != nil || e.ETag == "" || e.Path != "f" {
		t.Errorf("over another: %d %s", code, text)
	}
	if code, text := a.do("PUT", content("f"), strings.NewReader("y"), "If-Match", "wrong"); code != http.StatusPreconditionFailed {
		t.Errorf("with a wrong ETag: %d %s", code, text)
	}
	if code, text := a.do("PUT", content("f"), strings.NewReader("y"), "If-Match", e.ETag); code != http.StatusOK {
		t.Errorf("with the right one: %d %s", code, text)
	}
	if code, text := a.do("DELETE", agentapi.FilesDirectory+"?path=f", nil); code != http.StatusConflict {
		t.Errorf("DELETE of a file as a directory: %d %s", code, text)
	}
}

func TestAttackDeletesADirectoryWithFiles(t *testing.T) {
	a := attack(t, nil).speak()
	if _, err := a.store.Put(t.Context(), "w", "d/f", strings.NewReader("x"), contents.PutOptions{Parents: true}); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{agentapi.FilesDirectory + "?path=d", content("d")} {
		if code, text := a.do("DELETE", target, nil, "If-Match", "x"); code != http.StatusConflict {
			t.Errorf("%s: %d %s", target, code, text)
		}
	}
	if _, err := a.store.Stat(t.Context(), "w", "d/f"); err != nil {
		t.Error(err)
	}
}

// lying is a body that is not as long as was said.
type lying struct{ io.Reader }

func TestAttackLengths(t *testing.T) {
	a := attack(t, nil).speak()
	if code, text := a.do("PUT", content("f"), lying{strings.NewReader("no length")}, "If-None-Match", "*"); code != http.StatusLengthRequired {
		t.Errorf("no length: %d %s", code, text)
	}
	if code, text := a.do("PUT", content("f"), strings.NewReader(strings.Repeat("x", 1<<20+1)), "If-None-Match", "*"); code != http.StatusRequestEntityTooLarge && !strings.Contains(text, "error") {
		t.Errorf("too long: %d %s", code, text)
	}
	// Shorter than said: half a file must not be stored.
	req, _ := http.NewRequestWithContext(t.Context(), "PUT", "http://x"+content("half"), lying{strings.NewReader(strings.Repeat("x", 1000))})
	req.ContentLength = 500_000
	req.Header.Set("If-None-Match", "*")
	if resp, err := a.http.RoundTrip(req); err == nil {
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			t.Error("half a file was taken")
		}
	}
	for _, p := range []string{"f", "half"} {
		if _, err := a.store.Stat(t.Context(), "w", p); !errors.Is(err, contents.ErrNotFound) {
			t.Errorf("%s: %v", p, err)
		}
	}
}

// written counts what is written.
type written struct{ atomic.Int64 }

func (w *written) Write(p []byte) (int, error) {
	w.Add(int64(len(p)))
	return len(p), nil
}

// An attacker may do so thousands of times a second.
func TestAttackBodiesThatAreCutShortFillNoLog(t *testing.T) {
	var logged written
	a := attack(t, func(o *contentsync.Options) { o.Log = slog.New(slog.NewTextHandler(&logged, nil)) })
	if _, err := io.WriteString(a.conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	frames := http2.NewFramer(a.conn, a.conn)
	if err := frames.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	for i, length := range []string{"10", "500000"} {
		stream := uint32(2*i + 1)
		var block bytes.Buffer
		for _, field := range [][2]string{
			{":method", "PUT"}, {":scheme", "http"}, {":authority", "x"}, {":path", content("f")}, {"content-length", length}, {"if-none-match", "*"},
		} {
			if err := hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: field[0], Value: field[1], Sensitive: true}); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(
			frames.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true}),
			frames.WriteData(stream, true, []byte("abc")),
		); err != nil {
			t.Fatal(err)
		}
		for answered := false; !answered; {
			frame, err := frames.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			_, answered = frame.(*http2.HeadersFrame)
		}
	}
	if n := logged.Load(); n > 0 {
		t.Errorf("%d bytes were logged", n)
	}
}

func TestAttackManyEntriesAndBytesMeetTheLimits(t *testing.T) {
	a := attack(t, func(o *contentsync.Options) { o.MaxEntries = 20 }).speak()
	refused := 0
	for i := range 50 {
		if code, _ := a.do("PUT", content(fmt.Sprint("f", i)), nil, "If-None-Match", "*", "Content-Length", "0"); code == http.StatusInsufficientStorage {
			refused++
		}
		if code, _ := a.do("POST", agentapi.FilesDirectory+fmt.Sprint("?path=d", i), nil); code == http.StatusInsufficientStorage {
			refused++
		}
	}
	if refused < 70 {
		t.Errorf("%d of 100 were refused with a limit of 20", refused)
	}
	// Directories count that a file or a directory brings along.
	a = attack(t, func(o *contentsync.Options) { o.MaxEntries = 20 }).speak()
	deep := strings.Repeat("d/", 30) + "f"
	if code, text := a.do("PUT", content(deep), nil, "If-None-Match", "*", "Content-Length", "0"); code != http.StatusInsufficientStorage {
		t.Errorf("a file below 30 directories with a limit of 20: %d %s", code, text)
	}
	if code, text := a.do("POST", agentapi.FilesDirectory+"?path="+url.QueryEscape(deep), nil); code != http.StatusInsufficientStorage {
		t.Errorf("30 directories with a limit of 20: %d %s", code, text)
	}
	// What was there before counts, although nobody has asked for it.
	a = attack(t, func(o *contentsync.Options) { o.MaxEntries = 20 }).speak()
	for i := range 20 {
		if _, err := a.store.Put(t.Context(), "w", fmt.Sprint("old", i), strings.NewReader(""), contents.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if code, text := a.do("PUT", content("new"), nil, "If-None-Match", "*", "Content-Length", "0"); code != http.StatusInsufficientStorage {
		t.Errorf("one more than 20 over a new link: %d %s", code, text)
	}
	a = attack(t, nil).speak()
	a.store.Limit(10_000)
	code, text := a.do("PUT", content("f"), strings.NewReader(strings.Repeat("x", 20_000)), "If-None-Match", "*")
	if code != http.StatusInsufficientStorage || !strings.Contains(text, "no room") {
		t.Errorf("over the quota: %d %s", code, text)
	}
}

func TestAttackRequestsAreSlowedDown(t *testing.T) {
	a := attack(t, func(o *contentsync.Options) { o.Requests = 100 }).speak()
	begin := time.Now()
	for range 600 {
		a.do("GET", content("none"), nil)
	}
	if took := time.Since(begin); took < 500*time.Millisecond {
		t.Errorf("600 requests took %v at 100 a second, 500 at once", took)
	}
}

func TestAttackSlowBodiesHoldNobodyElse(t *testing.T) {
	a := attack(t, nil).speak()
	var slow sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for i := range 10 {
		slow.Go(func() {
			r, w := io.Pipe()
			stop := context.AfterFunc(ctx, func() { w.CloseWithError(io.ErrUnexpectedEOF) })
			defer stop()
			req, _ := http.NewRequestWithContext(ctx, "PUT", "http://x"+content(fmt.Sprint("slow", i)), r)
			req.ContentLength = 900_000
			req.Header.Set("If-None-Match", "*")
			if resp, err := a.http.RoundTrip(req); err == nil {
				resp.Body.Close()
			}
		})
	}
	if code, text := a.do("PUT", content("quick"), strings.NewReader("x"), "If-None-Match", "*"); code != http.StatusOK {
		t.Errorf("%d %s", code, text)
	}
	cancel()
	slow.Wait()
}

// Whatever is not HTTP/2 ends the link, soon, and costs little.
func TestAttackGarbageInsteadOfHTTP2(t *testing.T) {
	preface := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	for name, bytes := range map[string]string{
		"text":           "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"noise":          strings.Repeat("\xff\x00\x7f", 10_000),
		"frame too long": preface + "\xff\xff\xff\x00\x00\x00\x00\x00\x01",
		"no settings":    preface + "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678",
		"bad headers":    preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x03\x01\x05\x00\x00\x00\x01\xff\xff\xff",
		"endless":        preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + strings.Repeat("\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678", 100_000),
	} {
		t.Run(name, func(t *testing.T) {
			a := attack(t, nil)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			go io.Copy(io.Discard, a.conn)
			a.conn.SetWriteDeadline(time.Now().Add(patience))
			io.WriteString(a.conn, bytes) //nolint:errcheck // the link may be cut before
			a.conn.(*net.UnixConn).CloseWrite()
			select {
			case <-a.over:
			case <-time.After(patience):
				t.Error("the link is still served")
			}
			runtime.ReadMemStats(&after)
			if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 32<<20 {
				t.Errorf("it cost %d bytes", grown)
			}
		})
	}
}

func TestAttackHeadersWithoutEnd(t *testing.T) {
	a := attack(t, nil).speak()
	code, text := a.do("GET", content("f"), nil, "X-Long", strings.Repeat("x", 1<<20))
	if code != http.StatusRequestHeaderFieldsTooLarge && code != 0 {
		t.Errorf("%d %s", code, text)
	}
}

func TestStoreThatFailsIsTriedAgainBySandboxes(t *testing.T) {
	a := attack(t, nil).speak()
	for method, call := range map[string]func() (int, string){
		"Put":  func() (int, string) { return a.do("PUT", content("f"), strings.NewReader("x"), "If-None-Match", "*") },
		"Open": func() (int, string) { return a.do("GET", content("f"), nil) },
		"Stat": func() (int, string) { return a.do("DELETE", content("f"), nil, "If-Match", "x") },
		"Walk": func() (int, string) { return a.do("GET", agentapi.FilesManifest, nil) },
	} {
		a.store.FailNext(method, 1, fmt.Errorf("bucket SECRET of 10.0.0.1: %w", contents.ErrUnavailable))
		if code, text := call(); code != http.StatusServiceUnavailable || strings.Contains(text, "SECRET") {
			t.Errorf("%s: %d %s", method, code, text)
		}
	}
}

func TestContentThatBreaksOffIsNoContent(t *testing.T) {
	a := attack(t, nil).speak()
	if _, err := a.store.Put(t.Context(), "w", "f", strings.NewReader(strings.Repeat("x", 100_000)), contents.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	a.store.CutNext(50_000)
	if code, text := a.do("GET", content("f"), nil); code != 0 {
		t.Errorf("half a file looks like one: %d, %d bytes", code, len(text))
	}
	if code, text := a.do("GET", content("f"), nil); code != http.StatusOK || len(text) != 100_000 {
		t.Errorf("then: %d, %d bytes", code, len(text))
	}
}
