package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kernelgw/sandboxes/agentapi"
)

func TestArgvPlaceholders(t *testing.T) {
	got := kernelArgv([]string{"py", "-f", "{connection_file}", "--r={resource_dir}/x", "{prefix}", "{}", "{connection_file}{resource_dir}"}, "/c {resource_dir}.json", "/r")
	want := []string{"py", "-f", "/c {resource_dir}.json", "--r=/r/x", "{prefix}", "{}", "/c {resource_dir}.json/r"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEnvironment(t *testing.T) {
	o := &Options{Home: "/home/u", Config: agentapi.Config{KernelID: "k"}}
	agent := []string{"PATH=/bin", "HOME=/root", "A=agent", "JPY_PARENT_PID=1", "no value", "=x"}
	spec := map[string]string{"B": "${A}/$A/${UNKNOWN}/$", "A": "spec", "PATH": "/opt/bin:${PATH}"}
	client := map[string]string{
		"KERNEL_A": "$(id) `id` ${A} {{7*7}} %s", "KERNEL_NL": "a\nLD_PRELOAD=/x", "KERNEL_NUL": "a\x00B=1", "KERNEL=B": "x", "": "y",
	}
	env := kernelEnv(agent, spec, client, o)
	got := make(map[string]string)
	for _, entry := range env {
		name, value, _ := strings.Cut(entry, "=")
		if _, twice := got[name]; twice {
			t.Errorf("%s is there twice", name)
		}
		got[name] = value
	}
	for name, want := range map[string]string{
		"PATH": "/opt/bin:/bin", "HOME": "/root", "A": "spec", "B": "agent/agent/${UNKNOWN}/$", "LANG": "C.UTF-8",
		"KERNEL_A": "$(id) `id` ${A} {{7*7}} %s", "KERNEL_NL": "a\nLD_PRELOAD=/x", "KERNELGW_KERNEL_ID": "k",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	for _, name := range []string{"JPY_PARENT_PID", "KERNEL_NUL", "KERNEL", "LD_PRELOAD", ""} {
		if value, ok := got[name]; ok {
			t.Errorf("%q is there: %q", name, value)
		}
	}
	// Another user's is not the agent's.
	o.User = &User{UID: 4_000_000, GID: 4_000_000}
	env = kernelEnv(agent, nil, nil, o)
	for _, want := range []string{"HOME=/home/u", "USER=user", "LOGNAME=user", "SHELL=/bin/sh"} {
		if !slices.Contains(env, want) {
			t.Errorf("%s is not in %q", want, env)
		}
	}
}

func TestKernelDir(t *testing.T) {
	home := t.TempDir()
	if err := os.MkdirAll(filepath.Join(home, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "a", "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ cwd, want string }{
		{"", home},
		{"a/b", home + "/a/b"},
		{"a/b/gone/too", home + "/a/b"},
		{"a/file", home + "/a"},
		{"../../..", home},
		{"a/../../../etc", home},
		{home + "/a", home + "/a"},
		{"/nonexistent/x", "/"},
	} {
		if got := kernelDir(home, c.cwd); got != c.want {
			t.Errorf("kernelDir(%q) = %q, want %q", c.cwd, got, c.want)
		}
	}
}

func TestLookProgram(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"python3": 0o755, "data": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"A=b", "PATH=.:/nonexistent::" + dir}
	t.Chdir(dir)
	for name, want := range map[string]string{
		"python3": dir + "/python3", "python": dir + "/python3", "/x/y": "/x/y", "./z": "./z", "data": "", "gone": "",
	} {
		got, err := lookProgram(name, env)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("lookProgram(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := Options{Config: agentapi.Config{Token: "t"}}
	good.Config.Spec.Argv = []string{"x"}
	for name, change := range map[string]func(*Options){
		"no token":       func(o *Options) { o.Config.Token = "" },
		"no argv":        func(o *Options) { o.Config.Spec.Argv = nil },
		"interrupt mode": func(o *Options) { o.Config.Spec.InterruptMode = "shout" },
		"negative":       func(o *Options) { o.Config.MemoryBytes = -1 },
		"root":           func(o *Options) { o.User = &User{UID: 0, GID: 5} },
		"no user":        func(o *Options) { o.User = &User{UID: noUser, GID: 5} },
		"no listener":    func(*Options) {},
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[int64]string{2 << 30: "2.0 GiB", 3 << 29: "1.5 GiB", 256 << 20: "256 MiB", 1000: "1000 bytes"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}
