package process_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"kernelgw/sandboxes"
	"kernelgw/sandboxes/process"
	"kernelgw/sandboxes/sandboxtest"
)

// TestMain makes the test binary what a driver starts: its own supervisor, as
// the gateway's binary is, and an agent without a kernel.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == process.SupervisorCommand {
		if err := process.Supervise(os.Args[2]); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) > 1 && os.Args[1] == "--config" {
		os.Exit(double(os.Args[1:]))
	}
	// A program built with -race sleeps a second before it exits, which would
	// be taken for slowness of the driver.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// double is an agent with the flags of kernelagent.
func double(args []string) int {
	flags := flag.NewFlagSet("double", flag.ContinueOnError)
	config := flags.String("config", "", "")
	listen := flags.String("listen", "", "")
	flags.String("home", "", "")
	flags.String("runtime-dir", "", "")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	socket, ok := strings.CutPrefix(*listen, "unix:")
	if !ok {
		fmt.Fprintf(os.Stderr, "double: cannot listen on %q\n", *listen)
		return 2
	}
	return sandboxtest.AgentMain(*config, socket)
}

// fakeSpecs returns a Jupyter data directory with one kernelspec.
func fakeSpecs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	spec := filepath.Join(dir, "kernels", "python3")
	if err := os.MkdirAll(spec, 0o755); err != nil {
		t.Fatal(err)
	}
	const text = `{"argv": ["python3", "-m", "none", "-f", "{connection_file}"], "display_name": "Python 3", "language": "python"}`
	if err := os.WriteFile(filepath.Join(spec, "kernel.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t *testing.T, o process.Options) sandboxes.Driver {
	t.Helper()
	d, err := process.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// killAgent kills the agent of a sandbox by what the driver has recorded.
func killAgent(t *testing.T, _ sandboxes.Driver, sb sandboxes.Sandbox) {
	t.Helper()
	if err := unix.Kill(agentPID(t, filepath.Dir(sb.Agent.Address)), unix.SIGKILL); err != nil {
		t.Fatalf("cannot kill the agent: %v", err)
	}
}

func agentPID(t *testing.T, dir string) int {
	t.Helper()
	_, agent := recorded(t, dir)
	return agent
}

func supervisorPID(t *testing.T, dir string) int {
	t.Helper()
	supervisor, _ := recorded(t, dir)
	return supervisor
}

// recorded returns the pids that the driver keeps of a sandbox.
func recorded(t *testing.T, dir string) (supervisor, agent int) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "processes.json"))
	if err != nil {
		t.Fatal(err)
	}
	var p struct{ Supervisor, Agent struct{ PID int } }
	if err := json.Unmarshal(data, &p); err != nil {
		t.Fatal(err)
	}
	return p.Supervisor.PID, p.Agent.PID
}

func TestDriverKeepsTheContract(t *testing.T) {
	sandboxtest.Run(t, func(t *testing.T) sandboxtest.Harness {
		specs := fakeSpecs(t)
		return sandboxtest.Harness{
			New: func(t *testing.T, stateDir string) sandboxes.Driver {
				return open(t, process.Options{StateDir: stateDir, AgentPath: self(t), KernelPath: []string{specs}})
			},
			KillAgent: killAgent,
		}
	})
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
