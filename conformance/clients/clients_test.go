// Package clients runs the real clients, as their users install them, against
// a kernelgw started for each: JupyterLab behind --gateway-url, nbclient and
// papermill, jupyter_kernel_client, @jupyterlab/services and a raw WebSocket.
// scripts/setup-clients.sh installs them; the scripts that drive them are in
// python and node. It imports none of our packages.
package clients

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kernelgw/conformance/probe"
	"kernelgw/conformance/servers"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// The clients wait more than they compute.
	if err := flag.Set("test.parallel", "5"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// capability makes a base URL for clients that send no credentials on their
// WebSocket.
func capability(t *testing.T, s *probe.Server, label string) string {
	t.Helper()
	var made struct{ URL string }
	s.Do(t, "POST", "v1/capabilities", map[string]string{"label": label}).Want(t, 201).Decode(t, &made)
	return made.URL
}

// script is a running client.
type script struct {
	lines  *bufio.Scanner
	cmd    *exec.Cmd
	stderr *strings.Builder
}

// run starts one of the scripts beside this file with its interpreter.
func run(t *testing.T, env []string, file string, args ...string) *script {
	t.Helper()
	root, err := servers.Root()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	environment := append(os.Environ(), "HOME="+home, "IPYTHONDIR="+home, "JUPYTER_RUNTIME_DIR="+home)
	var argv []string
	if strings.HasSuffix(file, ".py") {
		venv, err := servers.Venv("clients")
		if err != nil {
			t.Fatal(err)
		}
		argv = []string{filepath.Join(venv, "bin", "python"), filepath.Join("python", file)}
	} else {
		modules := filepath.Join(root, ".cache", "node", "node_modules")
		if _, err := os.Stat(modules); err != nil {
			t.Fatal("@jupyterlab/services is not installed: run scripts/setup-clients.sh node")
		}
		environment = append(environment, "NODE_PATH="+modules)
		argv = []string{"node", filepath.Join("node", file)}
	}
	s := &script{stderr: &strings.Builder{}}
	s.cmd = exec.CommandContext(t.Context(), argv[0], append(argv[1:], args...)...)
	s.cmd.Env = append(environment, env...)
	s.cmd.Stderr = s.stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatalf("cannot start %s: %v", file, err)
	}
	s.lines = bufio.NewScanner(out)
	s.lines.Buffer(nil, 1<<20)
	return s
}

// next decodes the next line of JSON that the script prints. Other lines are
// the clients' own and are skipped.
func (s *script) next(t *testing.T, v any) {
	t.Helper()
	for s.lines.Scan() {
		if line := s.lines.Bytes(); len(line) > 0 && (line[0] == '{' || line[0] == '[') {
			if err := json.Unmarshal(line, v); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			return
		}
	}
	err := s.cmd.Wait()
	t.Fatalf("the client ended early (%v):\n%s", err, s.stderr)
}

// event reads up to the event of that name and returns it.
func (s *script) event(t *testing.T, name string) map[string]any {
	t.Helper()
	for {
		var event map[string]any
		s.next(t, &event)
		switch event["event"] {
		case name:
			return event
		case "failed":
			t.Fatalf("waiting for %q: %v\n%s", name, event["error"], s.stderr)
		}
		t.Log(event)
	}
}

// done waits for a good end.
func (s *script) done(t *testing.T) {
	t.Helper()
	for s.lines.Scan() {
		t.Logf("%s", s.lines.Bytes())
	}
	if err := s.cmd.Wait(); err != nil {
		t.Fatalf("the client ended with %v:\n%s", err, s.stderr)
	}
}

func server(p *servers.Process) []string {
	return []string{"KERNELGW_URL=" + p.Base, "KERNELGW_TOKEN=" + p.Token}
}

// crash kills the gateway as kill -9 does and starts it again.
func crash(t *testing.T, p *servers.Process) {
	t.Helper()
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestNotebookThroughGatewayKernelManager(t *testing.T) {
	t.Parallel()
	for _, client := range []string{"nbclient", "papermill"} {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			p := servers.ForTest(t, servers.Options{})
			s := run(t, []string{"JUPYTER_GATEWAY_URL=" + capability(t, &p.Server, client)}, "notebook.py", client)
			var got struct {
				Cells    int
				Prints   string
				PNG      bool
				Error    []string
				Silent   string
				InOrder  bool `json:"megabytes_in_order"`
				Bytes    int  `json:"bytes_of_prints"`
				OnePrint int  `json:"bytes_of_one_print"`
			}
			s.next(t, &got)
			s.done(t)
			var prints strings.Builder
			for i := range 20 {
				fmt.Fprintln(&prints, i)
			}
			if got.Cells != 6 || got.Prints != prints.String() || !got.PNG || fmt.Sprint(got.Error) != "[ZeroDivisionError]" {
				t.Errorf("cells %d, prints %q, PNG %v, error %v", got.Cells, got.Prints, got.PNG, got.Error)
			}
			if got.Silent != "awake\n" {
				t.Errorf("the cell that was silent for 45 s printed %q", got.Silent)
			}
			if !got.InOrder || got.Bytes != 12_000_000 || got.OnePrint != 12_000_001 {
				t.Errorf("12 MB of prints came as %d bytes, in order %v; 12 MB in one print as %d", got.Bytes, got.InOrder, got.OnePrint)
			}
			if ids, err := p.KernelIDs(); err != nil || len(ids) != 0 {
				t.Errorf("kernels left: %v, %v", ids, err)
			}
		})
	}
}

func TestJupyterKernelClient(t *testing.T) {
	t.Parallel()
	for _, subprotocol := range []string{"legacy", "v1"} {
		t.Run(subprotocol, func(t *testing.T) {
			t.Parallel()
			p := servers.ForTest(t, servers.Options{})
			s := run(t, server(p), "kernel_client.py", subprotocol)
			var got map[string]any
			s.next(t, &got)
			s.done(t)
			for key, want := range map[string]string{
				"language": "python", "status": "ok", "outputs": "[hello\n 42]", "error": "ZeroDivisionError",
				"asked": "got ada\n", "interrupted": "KeyboardInterrupt", "restarted": "False\n", "alive": "true",
			} {
				if text := fmt.Sprint(got[key]); text != want {
					t.Errorf("%s is %q, want %q", key, text, want)
				}
			}
			p.Do(t, "GET", "api/kernels/"+fmt.Sprint(got["kernel"]), nil).Want(t, 404)
		})
	}
}

func TestRawWebSocketClient(t *testing.T) {
	t.Parallel()
	s := run(t, server(servers.ForTest(t, servers.Options{})), "raw.py")
	var got []json.RawMessage
	s.next(t, &got)
	s.done(t)
	want := []string{
		`{"stdout": "hello\n", "data": [["text/plain"]], "error": null, "reply": "ok"}`,
		`{"stdout": "", "data": [], "error": "ZeroDivisionError", "reply": "error"}`,
		`{"stdout": "", "data": [["image/png", "text/plain"]], "error": null, "reply": "ok"}`,
		`{"stdout": "11000000\n", "data": [], "error": null, "reply": "ok"}`,
		`204`,
	}
	if len(got) != len(want) {
		t.Fatalf("%d results: %s", len(got), got)
	}
	for i := range want {
		if string(got[i]) != want[i] {
			t.Errorf("result %d is %s, want %s", i, got[i], want[i])
		}
	}
}

// Alone: it judges what comes twice, which is what was in flight for a round trip.
func TestJupyterLabServices(t *testing.T) {
	p := servers.ForTest(t, servers.Options{})
	s := run(t, server(p), "services.cjs")
	for _, step := range []string{"session", "stdin", "comm", "interrupt", "restart", "death", "printing"} {
		s.event(t, step)
	}
	crash(t, p)
	after := s.event(t, "reconnect")
	if twice := after["twice"].(float64); twice > 128 {
		t.Errorf("%v messages came twice over one break", twice)
	}
	t.Logf("after kill -9 of the gateway: %v", after)
	s.event(t, "done")
	s.done(t)
}

func TestVSCodeProbes(t *testing.T) {
	t.Parallel()
	p := servers.ForTest(t, servers.Options{})
	s := run(t, server(p), "vscode.cjs")
	var got struct {
		Base                    string
		NeedsPassword           bool
		WithToken, WithPassword map[string]int
	}
	s.next(t, &got)
	s.done(t)
	const all = "map[api/kernels:200 api/kernelspecs:200 api/sessions:200]"
	if got.Base != p.Base || !got.NeedsPassword || fmt.Sprint(got.WithToken) != all || fmt.Sprint(got.WithPassword) != all {
		t.Errorf("VS Code would see %+v", got)
	}
}
