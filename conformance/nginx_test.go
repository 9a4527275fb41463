package conformance

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"kernelgw/conformance/probe"
	"kernelgw/conformance/servers"
)

// behind is a kernelgw that is reached through nginx.
type behind struct {
	*target // at the clients' end
	way     *servers.Way
	gateway *target
}

// throughNginx lays a way to a kernelgw of its own.
func throughNginx(t *testing.T, patient bool) *behind {
	t.Helper()
	if servers.Driver() != "process" {
		t.Skip("it runs with the driver process: nothing of it depends on the driver")
	}
	s := own(t, servers.Options{})
	way := servers.WayForTest(t, s.process, patient)
	return &behind{target: newOwned(&way.Server, nil, false), way: way, gateway: s}
}

// What a proxy could spoil of what clients need. With KERNELGW_LONG=1 it is
// everything.
func TestKernelgwThroughNginx(t *testing.T) {
	t.Parallel()
	s := throughNginx(t, true)
	checks := slices.Concat(encodingChecks, replayChecks, originChecks, fileChecks, eventChecks)
	if os.Getenv("KERNELGW_LONG") != "" {
		checks = allChecks()
	}
	for _, c := range checks {
		if c.alone {
			continue // it is about the gateway, whole
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, s.target)
		})
	}
}

// Alone: what may come twice is what was in flight for a round trip, and that is
// as long as the machine is busy.
func TestNginxAndFaultsLoseNoLine(t *testing.T) {
	s := throughNginx(t, false)
	faults := append(s.way.Faults(), servers.Fault{Name: "nginx is killed", Do: s.way.CrashNginx})
	x := newSession(t, s.target, map[string]any{"path": "a.ipynb", "type": "notebook", "name": "a"})
	followers := followers(t, s.target, x.ID)
	session := probe.ID()
	w := s.Dial(t, x.Kernel.ID, probe.Dialing{Session: session})
	w.Run(t, "import time")
	lines := (len(faults) + 2) * 200
	r := &reader{id: w.Start(t, fmt.Sprintf("for i in range(%d):\n    print(i, flush=True)\n    time.sleep(0.005)", lines))}
	unacknowledged := 0 // what would come twice if no pong arrived
	for _, f := range faults {
		r.take(t, w, 200)
		if err := f.Do(t.Context()); err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
		r.rest(w)
		unacknowledged += len(r.stream)
		t.Logf("%s after %d messages", f.Name, len(r.stream))
		w = s.Dial(t, x.Kernel.ID, probe.Dialing{Session: session})
	}
	r.take(t, w, 1<<20)
	problem, twice := probe.Lossless(r.stream, lines)
	if problem != "" {
		t.Error(problem)
	}
	t.Logf("%d messages came twice in %d breaks", twice, len(faults))
	if twice > unacknowledged/4 {
		t.Errorf("without any acknowledgement it would be %d", unacknowledged)
	}
	await(t, followers, fmt.Sprintf("\n%d\n", lines-1))
	s.Do(t, "DELETE", "api/sessions/"+x.ID, nil).Want(t, 204)
	checkFollowers(t, followers, "", lines)
}

// nginx lets the sockets of an old configuration live, unless it is told otherwise.
func TestReloadOfAPatientNginxEndsNoSocket(t *testing.T) {
	t.Parallel()
	s := throughNginx(t, true)
	k := s.StartKernel(t)
	w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	for range 2 {
		if err := s.way.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := w.Run(t, "print('still here')").Stdout; got != "still here\n" {
			t.Errorf("stdout is %q", got)
		}
	}
}

func TestNginxPassesEventsOnAtOnce(t *testing.T) {
	t.Parallel()
	s := throughNginx(t, true)
	k := s.StartKernel(t)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Base+"v1/sessions/"+k.ID+"/stream?last_event_id=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "token "+s.Token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || kind != "text/event-stream" {
		t.Fatalf("the stream answers %s, %s", resp.Status, kind)
	}
	w := s.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	// It goes on until the event has come: one that is kept back never comes.
	cell := w.Start(t, "import time\nprint('be' + 'gun', flush=True)\ntime.sleep(600)")
	late := time.AfterFunc(probe.Patience, func() { resp.Body.Close() })
	defer late.Stop()
	text, buf := "", make([]byte, 4096)
	for !strings.Contains(text, `begun\n`) {
		n, err := resp.Body.Read(buf)
		text += string(buf[:n])
		if err != nil {
			t.Fatalf("the event has not come: %v", err)
		}
	}
	s.Do(t, "POST", "api/kernels/"+k.ID+"/interrupt", nil).Want(t, 204)
	w.Finish(t, cell, probe.Patience)
}

func TestNginxLetsUploadsThrough(t *testing.T) {
	t.Parallel()
	s := throughNginx(t, true)
	content := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("0123456789abcdef", 200_000)))
	s.Do(t, "PUT", "api/contents/large.bin", map[string]any{"type": "file", "format": "base64", "content": content}).Want(t, 201)
	if got := s.Do(t, "GET", "files/large.bin", nil).Want(t, 200).Body; len(got) != 3_200_000 {
		t.Errorf("%d bytes came back", len(got))
	}
}

// JupyterLab takes a kernel for dead when it asks for it and the answer is
// nginx's own 502; with 503 it waits.
func TestNginxSaysThatAGatewayIsAway(t *testing.T) {
	t.Parallel()
	s := throughNginx(t, true)
	k := s.StartKernel(t)
	if err := s.gateway.process.Kill(); err != nil {
		t.Fatal(err)
	}
	answer := s.Do(t, "GET", "api/kernels/"+k.ID, nil).Want(t, 503)
	if answer.Object(t)["message"] == "" || answer.Header.Get("Retry-After") == "" {
		t.Errorf("it answers %v %s", answer.Header, answer.Body)
	}
	source := probe.With("Accept", "text/event-stream")
	if answer, err := s.Try(t, "GET", "v1/sessions/"+k.ID+"/stream", nil, source); err == nil {
		t.Errorf("an EventSource, which no answer but 200 makes come back, is answered %d", answer.Status)
	}
	if _, resp, err := s.TryDial(t, k.ID, probe.Dialing{}); err == nil || resp == nil || resp.StatusCode != 503 {
		t.Errorf("a socket is answered %+v, %v", resp, err)
	}
	if err := s.gateway.process.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.Dial(t, k.ID, probe.Dialing{}).Run(t, "print(1)").Stdout; got != "1\n" {
		t.Errorf("stdout is %q", got)
	}
}

// A call that is silent for longer than nginx waits goes on, and is asked for again.
func TestNginxCutsASilentCallWhichIsAskedForAgain(t *testing.T) {
	if os.Getenv("KERNELGW_LONG") == "" {
		t.Skip("NOT CHECKED without KERNELGW_LONG=1: a call that is silent for over a minute")
	}
	t.Parallel()
	s := throughNginx(t, true)
	k := s.StartKernel(t)
	call := map[string]any{"id": probe.ID(), "code": "import time; time.sleep(65); print('once')"}
	s.Do(t, "POST", "v1/sessions/"+k.ID+"/execute", call).Want(t, 503)
	answer := s.Do(t, "POST", "v1/sessions/"+k.ID+"/execute", call).Want(t, 200).Object(t)
	if answer["execution_count"] != 1.0 || !strings.Contains(fmt.Sprint(answer["outputs"]), "once") {
		t.Errorf("it answers %v", answer)
	}
}
