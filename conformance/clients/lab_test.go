package clients

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"kernelgw/conformance/probe"
	"kernelgw/conformance/servers"
)

// lab starts "jupyter lab --gateway-url" over a gateway, or a stock one when p
// is nil.
func lab(t *testing.T, p *servers.Process) *servers.Process {
	t.Helper()
	var kernels *probe.Server
	if p != nil {
		kernels = &p.Server
	}
	l, err := servers.Lab(t.Context(), kernels)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of jupyter lab:\n%s", l.Log())
		}
		// Its log may hold tokens: it is not ours.
		if err := l.Stop(); err != nil {
			t.Error(err)
		}
	})
	return l
}

type labSession struct {
	ID, Path, Name string
	Kernel         probe.Kernel
}

// open starts a session as the Lab page does: with a throw-away path, then two
// renames.
func open(t *testing.T, l *servers.Process) labSession {
	t.Helper()
	var s labSession
	path := probe.ID()
	l.Do(t, "POST", "api/sessions", map[string]any{
		"path": path, "type": "notebook", "name": "Untitled.ipynb", "kernel": map[string]string{"name": "python3"},
	}).Want(t, 201).Decode(t, &s)
	if s.Path != path {
		t.Fatalf("path is %q, want %q", s.Path, path)
	}
	l.Do(t, "PATCH", "api/sessions/"+s.ID, map[string]string{"id": s.ID, "path": "Untitled.ipynb"}).Want(t, 200)
	l.Do(t, "PATCH", "api/sessions/"+s.ID, map[string]string{"id": s.ID, "name": "Untitled.ipynb"}).Want(t, 200).Decode(t, &s)
	if s.Path != "Untitled.ipynb" {
		t.Errorf("path is %q after the rename", s.Path)
	}
	return s
}

// browser opens a kernel's socket on the Lab server. A gateway's sockets speak
// no subprotocol, so the page ends up with the legacy encoding.
func browser(t *testing.T, l *servers.Process, s labSession, session string) *probe.Socket {
	t.Helper()
	return l.Dial(t, s.Kernel.ID, probe.Dialing{Session: session, Legacy: true})
}

func TestLabThroughGatewayURL(t *testing.T) {
	t.Parallel()
	p := servers.ForTest(t, servers.Options{})
	l := lab(t, p)

	var specs struct {
		Default     string
		Kernelspecs map[string]struct{ Resources map[string]string }
	}
	l.Do(t, "GET", "api/kernelspecs", nil).Want(t, 200).Decode(t, &specs)
	logo := specs.Kernelspecs["python3"].Resources["logo-64x64"]
	if specs.Default != "python3" || logo == "" {
		t.Fatalf("Lab sees the specs %+v", specs)
	}
	if png := l.Do(t, "GET", logo, nil).Want(t, 200).Body; !bytes.HasPrefix(png, []byte("\x89PNG")) {
		t.Errorf("the logo is %q", png[:min(8, len(png))])
	}

	s := open(t, l)
	session := probe.ID()
	w := browser(t, l, s, session)
	if got := w.Run(t, "print(6 * 7)").Stdout; got != "42\n" {
		t.Fatalf("stdout is %q", got)
	}

	cell := w.Start(t, "import time\nprint('begun', flush=True)\ntime.sleep(60)")
	w.Wait(t, probe.Patience, "the cell to begin", func(m probe.Message) bool { return strings.Contains(m.Field("text"), "begun") })
	l.Do(t, "POST", "api/kernels/"+s.Kernel.ID+"/interrupt", nil).Want(t, 204)
	if reply := w.Finish(t, cell, 20*time.Second).Reply; reply.Field("ename") != "KeyboardInterrupt" {
		t.Errorf("after the interrupt: %.200s", reply.Content)
	}

	for i := range 5 {
		w.Run(t, "marker = 1")
		l.Do(t, "POST", "api/kernels/"+s.Kernel.ID+"/restart", nil).Want(t, 200)
		if i%2 == 0 { // the page opens its socket again; other pages keep theirs
			w.Close()
			w = browser(t, l, s, session)
		}
		if got := w.Finish(t, w.Start(t, "print('marker' in globals())"), 30*time.Second).Stdout; got != "False\n" {
			t.Errorf("after restart %d: %q", i+1, got)
		}
	}

	// Nothing culls a kernel of an open page that polls its lists.
	for range 5 {
		time.Sleep(2 * time.Second)
		for _, server := range []*servers.Process{l, p} {
			var kernels []probe.Kernel
			server.Do(t, "GET", "api/kernels", nil).Want(t, 200).Decode(t, &kernels)
			if len(kernels) != 1 || kernels[0].ID != s.Kernel.ID {
				t.Fatalf("%s lists %+v", server.Base, kernels)
			}
		}
	}
	if got := w.Run(t, "print('still here')").Stdout; got != "still here\n" {
		t.Errorf("stdout is %q", got)
	}

	l.Do(t, "DELETE", "api/sessions/"+s.ID, nil).Want(t, 204)
	p.Do(t, "GET", "api/kernels/"+s.Kernel.ID, nil).Want(t, 404)
}

func TestLabThroughGatewayURLSurvivesKillOfTheGateway(t *testing.T) {
	t.Parallel()
	p := servers.ForTest(t, servers.Options{})
	l := lab(t, p)
	s := open(t, l)
	w := browser(t, l, s, probe.ID())
	w.Run(t, "import time; kept = 1")
	const n = 1500
	id := w.Start(t, fmt.Sprintf("for i in range(%d):\n    print(i, flush=True)\n    time.sleep(0.004)", n))
	seen := 0
	last, before := w.Wait(t, probe.Patience, "200 outputs", func(m probe.Message) bool {
		if m.Header.MsgType == "stream" {
			seen++
		}
		return seen == 200
	})
	crash(t, p)
	// The Lab server reconnects by itself, after up to two seconds.
	r := w.Finish(t, id, 2*time.Minute)
	var stream []probe.Piece
	for _, m := range append(append(before, last), r.Messages...) {
		if m.Header.MsgType == "stream" && m.Parent.MsgID == id {
			stream = append(stream, probe.Piece{ID: m.Header.MsgID, Text: m.Field("text")})
		}
	}
	problem, twice := probe.Lossless(stream, n)
	if problem != "" {
		t.Error(problem)
	}
	if twice > 128 {
		t.Errorf("%d messages came twice over one break", twice)
	}
	t.Logf("%d messages came twice", twice)
	if got := w.Run(t, "print(kept)").Stdout; got != "1\n" {
		t.Errorf("the kernel lost its state: %q", got)
	}
	l.Do(t, "DELETE", "api/sessions/"+s.ID, nil).Want(t, 204)
}
