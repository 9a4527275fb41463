package gvisor_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
	"kernelgw/sandboxes/gvisor"
)

// terminalSandbox is a sandbox of terminals with the default image and the real
// agent.
func terminalSandbox(t *testing.T, d *gvisor.Driver, id string, limits sandboxes.Resources) agentapi.Client {
	t.Helper()
	config, err := json.Marshal(agentapi.Config{
		Token: "s3cret-of-the-agent", MemoryBytes: limits.MemoryBytes, Processes: limits.Processes,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Destroy(context.Background(), id); err != nil {
			t.Errorf("Destroy: %v", err)
		}
	})
	sb, err := d.Create(t.Context(), sandboxes.Spec{ID: id, AgentConfig: config, Resources: limits})
	if err != nil {
		t.Fatal(err)
	}
	client := agentapi.Client{Endpoint: agentapi.Endpoint(sb.Agent), Token: "s3cret-of-the-agent"}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := client.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	return client
}

// screen looks at a terminal.
type screen struct {
	*testing.T
	name string // the terminal's
	ws   *websocket.Conn
	text strings.Builder
	last string // name of the last message
}

func look(t *testing.T, c agentapi.Client, name string) *screen {
	t.Helper()
	dialer := websocket.Dialer{NetDialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.DialRaw(ctx) }}
	ws, _, err := dialer.DialContext(t.Context(), "ws://agent"+agentapi.TerminalSocket(name), http.Header{"Authorization": {"Bearer " + c.Token}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.Close() })
	return &screen{T: t, name: name, ws: ws}
}

func (s *screen) send(message ...any) {
	s.Helper()
	if err := s.ws.WriteJSON(message); err != nil {
		s.Fatal(err)
	}
}

// shows reads until the text was printed.
func (s *screen) shows(text string) string {
	s.Helper()
	_ = s.ws.SetReadDeadline(time.Now().Add(time.Minute))
	for !strings.Contains(s.text.String(), text) {
		s.read()
	}
	return s.text.String()
}

func (s *screen) read() {
	s.Helper()
	var m []any
	if err := s.ws.ReadJSON(&m); err != nil {
		all := s.text.String()
		s.Fatalf("%v; the terminal shows %q", err, all[max(0, len(all)-2000):])
	}
	s.last = m[0].(string)
	if s.last == "stdout" {
		s.text.WriteString(m[1].(string))
	}
}

func TestTerminalsWorkInsideTheSandbox(t *testing.T) {
	agent, store := realAgent(t), realImages(t)
	d, err := gvisor.New(gvisor.Options{StateDir: shortTempDir(t), Runsc: runsc(t), AgentPath: agent, Images: store})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	limits := sandboxes.Resources{MemoryBytes: 768 << 20, Processes: 40, DiskBytes: 128 << 20}
	c := terminalSandbox(t, d, "terminals", limits)
	start := func(t *testing.T) *screen {
		t.Helper()
		made, err := c.StartTerminal(t.Context(), agentapi.TerminalRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return look(t, c, made.Name)
	}

	t.Run("a shell of the kernel's user, on a terminal", func(t *testing.T) {
		s := start(t)
		s.send("set_size", 40, 111)
		s.send("stdin", "echo user=$(id -u):$(id -g):$(id -G) tty=$(tty) size=$(stty size) term=$TERM home=$PWD caps=$(grep CapEff /proc/self/status | cut -f2).\r")
		got := s.shows("caps=0")
		for _, want := range []string{"user=1000:1000:1000 ", "tty=/dev/pts/", "size=40 111", "term=xterm-256color", "home=/home/", "caps=0000000000000000."} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in %q", want, got)
			}
		}
		// Programs open the terminal by its name, too.
		s.send("stdin", "echo by$((1+1))name > $(tty); echo by$((1+2))dev > /dev/tty\r")
		s.shows("by2name")
		s.shows("by3dev")
	})
	t.Run("Ctrl-C", func(t *testing.T) {
		s := start(t)
		// Printed by what is to be interrupted, so that it is in front by then.
		s.send("stdin", "sh -c 'echo go$((1+1)); exec sleep 1000'\r")
		s.shows("go2")
		s.send("stdin", "\x03")
		s.send("stdin", "echo after$((1+1))\r")
		s.shows("after2")
	})
	t.Run("programs are told of a new size", func(t *testing.T) {
		s := start(t)
		s.send("stdin", "trap 'echo resized $(stty size)' WINCH; echo ready$((1+1))\r")
		s.shows("ready2")
		s.send("set_size", 33, 77)
		s.send("stdin", "\r")
		s.shows("resized 33 77")
	})
	t.Run("the agent's token is out of reach", func(t *testing.T) {
		s := start(t)
		s.send("stdin", "a=$(ls /proc | grep -E '^[0-9]+$' | sort -n | head -1); for f in /proc/$a/environ /proc/$a/mem /proc/$a/fd /proc/$a/maps /run/k* /proc/$a/root; do ls $f/ 2>&1; cat $f 2>&1; done | tr '\\0' '\\n' | head -c 4000; "+
			"cat $(tr '\\0' '\\n' < /proc/$a/cmdline | grep -A1 -e --config | tail -1) 2>&1; env; grep -rs s3cret / --include='*.json' 2>/dev/null | head -3; echo tried$((1+1))\r")
		if got := s.shows("tried2"); strings.Contains(got, "s3cret-of") {
			t.Errorf("the token: %q", got)
		}
		s.send("stdin", "kill -9 1; kill -9 $a; echo lives$((1+1))\r")
		s.shows("lives2")
		if _, err := c.Status(t.Context()); err != nil {
			t.Errorf("the agent after kill -9: %v", err)
		}
	})
	t.Run("a flood", func(t *testing.T) {
		s := start(t)
		s.send("stdin", "yes 01234567890123456789012345678901234567890123456789 | cat\r")
		_ = s.ws.SetReadDeadline(time.Now().Add(60 * time.Second))
		for s.text.Len() < 4<<20 {
			s.read()
		}
		begin := time.Now()
		if u, err := c.Usage(t.Context()); err != nil || u.MemoryBytes > 256<<20 {
			t.Errorf("usage %+v, %v", u, err)
		}
		if took := time.Since(begin); took > 10*time.Second { // on a host with other work, too
			t.Errorf("the agent answered after %v", took)
		}
		s.send("stdin", "\x03")
		s.send("stdin", "echo over$((1+1))\r")
		s.shows("over2")
	})
	t.Run("deleting kills the processes", func(t *testing.T) {
		watch := start(t)
		made, err := c.StartTerminal(t.Context(), agentapi.TerminalRequest{Name: "doomed"})
		if err != nil {
			t.Fatal(err)
		}
		s := look(t, c, made.Name)
		s.send("stdin", "trap '' HUP; (setsid sleep 4242; true) & (trap '' HUP; exec sleep 4243) & echo on$((1+1))\r")
		s.shows("on2")
		if err := c.DeleteTerminal(t.Context(), made.Name); err != nil {
			t.Fatal(err)
		}
		for s.last != "disconnect" {
			s.read()
		}
		watch.send("stdin", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep 42[4]'; echo counted$((1+1))\r")
		if got := watch.shows("counted2"); !strings.Contains(got, "\r0\r\n") {
			t.Errorf("sleepers live: %q", got)
		}
	})
	t.Run("too many processes end the guilty terminal only", func(t *testing.T) {
		bystander, s := start(t), start(t)
		bystander.send("stdin", "echo here$((1+1))\r")
		bystander.shows("here2")
		s.send("stdin", "f() { f | f & }; f\r")
		// On a host that has other work, too, the agent gets a three-hundredth of what the
		// bomb gets: 25 s were seen with half a core.
		_ = s.ws.SetReadDeadline(time.Now().Add(4 * time.Minute))
		for s.last != "disconnect" {
			s.read()
		}
		if got := s.text.String(); !strings.Contains(got, "[killed: process limit 40]") && !strings.Contains(got, "[killed: memory limit") {
			t.Errorf("no reason: %q", got[max(0, len(got)-500):])
		}
		// Its screen answered no ping meanwhile, and may have been cut off for that.
		bystander = look(t, c, bystander.name)
		bystander.send("stdin", "echo unharmed$((1+1))\r")
		bystander.shows("unharmed2")
	})
}
