package conformance

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kernelgw/conformance/probe"
	"kernelgw/conformance/servers"
)

// audience is several clients of one kernel that prints: the first has asked for it.
type audience struct {
	kernel   probe.Kernel
	sessions []string
	sockets  []*probe.Socket
	readers  []*reader
	lines    int
}

// newAudience has a kernel print so many lines to so many clients.
func newAudience(t *testing.T, s *target, clients, lines int) *audience {
	a := &audience{kernel: s.StartKernel(t), lines: lines}
	for range clients {
		a.sessions = append(a.sessions, probe.ID())
	}
	a.come(t, s)
	a.sockets[0].Run(t, "import time")
	id := a.sockets[0].Start(t, fmt.Sprintf("for i in range(%d):\n    print(i, flush=True)\n    time.sleep(0.002)", lines))
	for range clients {
		a.readers = append(a.readers, &reader{id: id})
	}
	return a
}

// come opens the sockets, again: half of them in the old encoding.
func (a *audience) come(t *testing.T, s *target) {
	a.sockets = nil
	for i, session := range a.sessions {
		a.sockets = append(a.sockets, s.Dial(t, a.kernel.ID, probe.Dialing{Session: session, Legacy: i%2 == 1}))
	}
}

func (a *audience) each(do func(*reader, *probe.Socket)) {
	for i, r := range a.readers {
		do(r, a.sockets[i])
	}
}

// readiness asks a gateway whether it is ready, over and over, until it is told
// to stop.
type readiness struct {
	stop, stopped chan struct{}
	yes           []time.Time // when questions were asked that were answered with yes
}

// watchReadiness returns when the gateway has said yes.
func watchReadiness(t *testing.T, s *target) *readiness {
	t.Helper()
	r := &readiness{stop: make(chan struct{}), stopped: make(chan struct{})}
	first := make(chan struct{})
	go func() {
		defer close(r.stopped)
		client := &http.Client{Timeout: probe.Patience, Transport: &http.Transport{}}
		defer client.CloseIdleConnections()
		for {
			asked := time.Now()
			if resp, err := client.Get(s.Base + "readyz"); err == nil {
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					if r.yes = append(r.yes, asked); len(r.yes) == 1 {
						close(first)
					}
				}
			}
			select {
			case <-r.stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	select {
	case <-first:
	case <-time.After(probe.Patience):
		close(r.stop)
		t.Fatal("the gateway never says that it is ready")
	}
	return r
}

// answers returns when the gateway said yes.
func (r *readiness) answers() []time.Time {
	close(r.stop)
	<-r.stopped
	return r.yes
}

// events opens a session's stream of server-sent events.
func events(t *testing.T, s *target, kernel string) *bufio.Reader {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), "GET", s.Base+"v1/sessions/"+kernel+"/stream?from=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "token "+s.Token)
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("no stream: %v %v", resp, err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return bufio.NewReader(resp.Body)
}

// TestTheGatewayEndsUnderLoad kills it and has it drain, with clients of both
// encodings, streams and output in full flow.
func TestTheGatewayEndsUnderLoad(t *testing.T) {
	t.Parallel()
	tmp := t.TempDir()
	s := own(t, servers.Options{Env: []string{"TMPDIR=" + tmp}})
	var all []*audience
	for range 2 {
		all = append(all, newAudience(t, s, 3, 2000))
	}
	for _, a := range all {
		a.each(func(r *reader, w *probe.Socket) { r.take(t, w, 100) })
	}
	if err := s.process.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		a.each(func(r *reader, w *probe.Socket) { r.rest(w) })
	}
	if err := s.process.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, s, tmp)
	for _, a := range all {
		a.come(t, s)
		a.each(func(r *reader, w *probe.Socket) { r.take(t, w, 100) })
	}
	stream := events(t, s, all[0].kernel.ID)
	ready := watchReadiness(t, s)

	if err := s.process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var first time.Time // when a client that was told to come back was known to be
	for _, a := range all {
		for i, w := range a.sockets {
			if code, reason := w.WaitClosed(t, probe.Patience); code != 1012 {
				t.Errorf("socket %d was closed with %d %q, want 1012", i, code, reason)
			}
			if first.IsZero() {
				first = time.Now()
			}
		}
	}
	code, err := s.process.Wait(probe.Patience)
	if err != nil || code != 0 {
		t.Errorf("exit code %d, %v, want 0", code, err)
	}
	for _, asked := range ready.answers() {
		if asked.After(first) {
			t.Errorf("it said that it was ready %v after it had told a client to come back", asked.Sub(first))
		}
	}
	lastWords(t, stream)
	nothingLeft(t, s, tmp)
	nobodyListens(t, s)

	for _, a := range all {
		a.each(func(r *reader, w *probe.Socket) { r.rest(w) })
	}
	if err := s.process.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		a.come(t, s)
		a.each(func(r *reader, w *probe.Socket) {
			r.take(t, w, 1<<20)
			problem, twice := probe.Lossless(r.stream, a.lines)
			if problem != "" {
				t.Error(problem)
			}
			t.Logf("%d lines came twice", twice)
		})
	}
}

// lastWords demands that a stream ends with the word to come back, and not in the
// middle of an event.
func lastWords(t *testing.T, stream *bufio.Reader) {
	t.Helper()
	last := []string{"", "", ""}
	for {
		line, err := stream.ReadString('\n')
		if err != nil {
			break
		}
		last = append(last[1:], strings.TrimSuffix(line, "\n"))
	}
	if !strings.HasPrefix(last[0], ": the server is restarting") || !strings.HasPrefix(last[1], "retry: ") || last[2] != "" {
		t.Errorf("the stream ended with %.200q", last)
	}
}

// nothingLeft demands that no temporary file is there.
func nothingLeft(t *testing.T, s *target, tmp string) {
	t.Helper()
	for _, dir := range []string{tmp, filepath.Join(s.process.Dir, "data", "spool")} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		for _, e := range entries {
			t.Errorf("%s is left in %s", e.Name(), filepath.Base(dir))
		}
	}
}

// nobodyListens demands that nobody listens in the place of a gateway that has ended.
func nobodyListens(t *testing.T, s *target) {
	t.Helper()
	u, err := url.Parse(s.Base)
	if err != nil {
		t.Fatal(err)
	}
	if conn, err := net.Dial("tcp", u.Host); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the port of a gateway that has ended: %v", err)
		if err == nil {
			conn.Close()
		}
	}
}
