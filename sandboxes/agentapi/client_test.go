package agentapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"kernelgw/jupyter"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs an agent's side of one listener until the test ends.
func serve(t testing.TB, h http.Handler) *Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return &Client{Endpoint: Endpoint{"tcp", l.Addr().String()}, Token: "secret"}
}

// lie answers each connection with raw bytes, by answer.
func lie(t *testing.T, answer func(net.Conn)) *Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var connections sync.WaitGroup
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			connections.Go(func() {
				defer conn.Close()
				buf := make([]byte, 4096)
				conn.Read(buf)
				answer(conn)
			})
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		connections.Wait()
	})
	return &Client{Endpoint: Endpoint{"tcp", l.Addr().String()}, Token: "secret"}
}

func TestCallsReachTheAgent(t *testing.T) {
	var asked []string
	want := Status{KernelID: "k", ExecutionState: jupyter.Idle, Ready: true}
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization"))
		switch r.URL.Path {
		case "/v1/kernel/interrupt", "/v1/kernel/shutdown":
			w.WriteHeader(http.StatusNoContent)
		default:
			json.NewEncoder(w).Encode(want)
		}
	}))
	ctx := t.Context()
	if s, err := c.Status(ctx); err != nil || s != want {
		t.Errorf("Status: %+v, %v", s, err)
	}
	if s, err := c.Restart(ctx); err != nil || s != want {
		t.Errorf("Restart: %+v, %v", s, err)
	}
	if err := errors.Join(c.Interrupt(ctx), c.Shutdown(ctx), c.WaitReady(ctx)); err != nil {
		t.Error(err)
	}
	got := strings.Join(asked, "\n")
	wanted := `GET /v1/status Bearer secret
POST /v1/kernel/restart Bearer secret
POST /v1/kernel/interrupt Bearer secret
POST /v1/kernel/shutdown Bearer secret
GET /v1/status Bearer secret`
	if got != wanted {
		t.Errorf("the agent was asked\n%s\nwant\n%s", got, wanted)
	}
}

func TestRefusalHasTheAgentsMessage(t *testing.T) {
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusConflict)
		w.Write([]byte(`{"message":"the kernel is dead"}`))
	}))
	err := c.Interrupt(t.Context())
	var refused *StatusError
	if !errors.As(err, &refused) || refused.Code != http.StatusConflict || refused.Message != "the kernel is dead" {
		t.Errorf("got %v", err)
	}
}

func TestWatchReportsEachStatusUntilTheAgentEnds(t *testing.T) {
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for i := range 3 {
			json.NewEncoder(w).Encode(Status{Starts: i})
			w.(http.Flusher).Flush()
		}
	}))
	var seen []int
	err := c.Watch(t.Context(), func(s Status) { seen = append(seen, s.Starts) })
	if err != io.EOF || fmt.Sprint(seen) != "[0 1 2]" {
		t.Errorf("saw %v, then %v", seen, err)
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(Status{})
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := c.Watch(ctx, func(Status) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestWaitReadyWaitsForTheListener(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	c := &Client{Endpoint: Endpoint{"unix", path}}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.WaitReady(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("with nobody listening: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- c.WaitReady(t.Context()) }()
	l, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("{}")) })}
	served := make(chan struct{})
	go func() { defer close(served); s.Serve(l) }()
	if err := <-done; err != nil {
		t.Error(err)
	}
	s.Close()
	<-served
}

func TestUnixSocketOfALongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 100), strings.Repeat("e", 100))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "socket")
	for range 2 { // the second replaces what the first left
		l, err := ListenUnix(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ListenUnix(path); err == nil {
			t.Error("two listen on one socket")
		}
		conn, err := (&Client{Endpoint: Endpoint{"unix", path}}).DialRaw(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		l.(*unixListener).Listener.Close() // leaves the file, as a killed agent does
	}
}

func TestAttackAgentPutsALinkInPlaceOfItsSocket(t *testing.T) {
	dir := t.TempDir()
	host := filepath.Join(dir, "host")
	l, err := ListenUnix(host)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	link, file := filepath.Join(dir, "link"), filepath.Join(dir, "file")
	if err := errors.Join(os.Symlink(host, link), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, file, filepath.Join(dir, "none"), dir} {
		conn, err := (&Client{Endpoint: Endpoint{"unix", path}}).DialRaw(t.Context())
		if !errors.Is(err, ErrGone) {
			t.Errorf("%s: %v, want ErrGone", filepath.Base(path), err)
		}
		if err == nil {
			conn.Close()
		}
	}
	conn, err := DialUnix(t.Context(), host)
	if err != nil {
		t.Fatalf("the socket itself: %v", err)
	}
	conn.Close()
}

// The agents here lie. What must hold for each: an error of this package, soon,
// and no more memory than the limits say.

func TestAgentThatLiesAboutLengths(t *testing.T) {
	for name, answer := range map[string]string{
		"body shorter than said":    "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
		"negative length":           "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
		"two lengths":               "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\n{}abc",
		"length that overflows":     "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
		"chunk longer than said":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}abc\r\n0\r\n\r\n",
		"chunk size that overflows": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}",
		"body cut short by a chunk": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
		"no HTTP":                   "SSH-2.0-OpenSSH_9.2\r\n",
		"status that is no number":  "HTTP/1.1 abc OK\r\n\r\n",
		"nothing":                   "",
	} {
		t.Run(name, func(t *testing.T) {
			c := lie(t, func(conn net.Conn) { io.WriteString(conn, answer) })
			_, err := c.Status(t.Context())
			if !errors.Is(err, ErrLies) && !errors.Is(err, ErrGone) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAgentThatLiesWithEndlessHeaders(t *testing.T) {
	for name, line := range map[string]string{
		"one header":   strings.Repeat("x", 1000),
		"many headers": "X-A: " + strings.Repeat("b", 990) + "\r\n",
		"information":  "x: y\r\n\r\nHTTP/1.1 103 Early Hints\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			sent := make(chan int, 1)
			c := lie(t, func(conn net.Conn) {
				n := 0
				if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nX-Long: "); err == nil {
					for err == nil && n < 100<<20 {
						var wrote int
						wrote, err = io.WriteString(conn, line)
						n += wrote
					}
				}
				sent <- n
			})
			if _, err := c.Status(t.Context()); !errors.Is(err, ErrLies) {
				t.Errorf("got %v", err)
			}
			if n := <-sent; n > 32<<20 {
				t.Errorf("the agent could send %d bytes of headers", n)
			}
		})
	}
}

func TestAgentThatLiesWithAnEndlessBody(t *testing.T) {
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"kernel_id":"`)
		chunk := strings.Repeat("x", 64<<10)
		for {
			if _, err := io.WriteString(w, chunk); err != nil {
				return
			}
		}
	}))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrLies) {
		t.Errorf("Status: %v", err)
	}
	if err := c.Watch(t.Context(), func(Status) {}); !errors.Is(err, ErrLies) {
		t.Errorf("Watch: %v", err)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 32<<20 {
		t.Errorf("%d bytes were allocated for a limit of %d", grown, MaxBodyBytes)
	}
}

func TestAgentThatLiesWithSomethingElse(t *testing.T) {
	for name, body := range map[string]string{
		"no JSON": "hello", "a list": "[]", "wrong types": `{"connections":"many"}`, "deep": strings.Repeat("[", 100_000),
		"compressed": "\x1f\x8b\x08\x00\x00\x00\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if name == "compressed" {
					w.Header().Set("Content-Encoding", "gzip")
				}
				io.WriteString(w, body)
			}))
			if _, err := c.Status(t.Context()); !errors.Is(err, ErrLies) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAgentThatFloodsItsWatch(t *testing.T) {
	sent := make(chan int, 1)
	c := lie(t, func(conn net.Conn) {
		n := 0
		_, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		for flood := strings.Repeat("{}\n", 10_000); err == nil && n < 1<<30; {
			var wrote int
			wrote, err = io.WriteString(conn, flood)
			n += wrote
		}
		sent <- n
	})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	seen := 0
	if err := c.Watch(ctx, func(Status) { seen++ }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if most := int(300*time.Millisecond/WatchPause) + 1; seen == 0 || seen > most {
		t.Errorf("saw %d lines in 300 ms, want at most %d", seen, most)
	}
	if n := <-sent; n > 32<<20 {
		t.Errorf("the agent could send %d bytes", n)
	}
}

func TestAgentThatLiesAboutItsPlace(t *testing.T) {
	asked := 0
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		http.Redirect(w, r, "http://169.254.169.254/latest/meta-data/", http.StatusTemporaryRedirect)
	}))
	_, err := c.Status(t.Context())
	var refused *StatusError
	if !errors.As(err, &refused) || refused.Code != http.StatusTemporaryRedirect || asked != 1 {
		t.Errorf("got %v after %d requests", err, asked)
	}
}

// pipeClient is a client whose agent is the other end of a pipe, for tests in
// a bubble of synctest, where the wait for a deadline takes no time.
func pipeDialer(t *testing.T, agent func(net.Conn)) func(context.Context) (net.Conn, error) {
	t.Helper()
	return func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			buf := make([]byte, 4096)
			theirs.Read(buf)
			agent(theirs)
		}()
		return ours, nil
	}
}

func TestAgentThatLiesByBeingSlow(t *testing.T) {
	slowly := func(text string) func(net.Conn) {
		return func(conn net.Conn) {
			for {
				for _, b := range []byte(text) {
					if _, err := conn.Write([]byte{b}); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}
		}
	}
	for name, agent := range map[string]func(net.Conn){
		"never answers":   func(conn net.Conn) { io.Copy(io.Discard, conn) },
		"slow header":     slowly("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 1000)),
		"slow body":       slowly("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + strings.Repeat(" ", 1000)),
		"endless on time": slowly("HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat(" ", 1000)),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &Client{dial: pipeDialer(t, agent)}
				begin := time.Now()
				if _, err := c.Status(t.Context()); !errors.Is(err, ErrGone) {
					t.Errorf("Status: %v", err)
				}
				if took := time.Since(begin); took > callTimeout+time.Second {
					t.Errorf("Status took %v", took)
				}
				begin = time.Now()
				if err := c.Watch(t.Context(), func(Status) {}); !errors.Is(err, ErrGone) && !errors.Is(err, ErrLies) {
					t.Errorf("Watch: %v", err)
				}
				if took := time.Since(begin); took > WatchSilence+time.Second {
					t.Errorf("Watch took %v", took)
				}
				time.Sleep(2 * time.Second) // of the bubble: the agent finds the connection closed
			})
		})
	}
}
