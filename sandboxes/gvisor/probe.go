package gvisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Report is what Probe found out.
type Report struct {
	Usable   bool   // a sandbox was really started and ended well
	Detail   string // one line: what works, or why not and what to do about it
	Runsc    string // the binary's path, "" when there is none
	Version  string // of runsc
	Rootless bool   // in a user namespace, because this user lacks the rights
	Cgroups  string // "v1" or "v2" when sandboxes get control groups, "" when not
	// CgroupsWhy says why Cgroups is empty.
	CgroupsWhy string
	BootTime   time.Duration // of the trial sandbox, until it had ended
}

// Probe finds out by trial whether this host can run gVisor sandboxes with the
// given runsc binary; "" means the one that FindRunsc finds. It takes a second
// or so and leaves nothing behind.
func Probe(ctx context.Context, runsc string) Report {
	r := Report{Rootless: rootless()}
	path, err := FindRunsc(runsc)
	if err != nil {
		r.Detail = err.Error()
		return r
	}
	r.Runsc = path
	version, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		r.Detail = fmt.Sprintf("cannot run %s: %v", path, err)
		return r
	}
	first, _, _ := strings.Cut(string(version), "\n")
	r.Version = strings.TrimPrefix(first, "runsc version ")
	r.Cgroups, r.CgroupsWhy = probeCgroups(r.Rootless)
	started := time.Now()
	if err := boot(ctx, path, r.Rootless); err != nil {
		r.Detail = err.Error()
		if why := forbidden(); r.Rootless && why != "" {
			r.Detail += "; " + why
		}
		return r
	}
	r.Usable, r.BootTime = true, time.Since(started)
	r.Detail = fmt.Sprintf("runsc %s, %s; a trial sandbox took %v", r.Version, r.limits(), r.BootTime.Round(time.Millisecond))
	return r
}

func (r Report) limits() string {
	if r.Cgroups != "" {
		return "rooted, limits by control groups " + r.Cgroups
	}
	mode := "rooted"
	if r.Rootless {
		mode = "rootless"
	}
	return mode + ", CPU not limited (" + r.CgroupsWhy + ")"
}

func probeCgroups(rootless bool) (mode, why string) {
	if rootless {
		return "", "an ordinary user has no control groups"
	}
	groups, err := readCgroups()
	if err == nil {
		err = groups.usable()
	}
	if err != nil {
		return "", err.Error()
	}
	return groups.mode(), ""
}

// boot runs a sandbox whose one program is runsc itself, asked for its version:
// the only static program that is surely here.
func boot(ctx context.Context, runsc string, rootless bool) (err error) {
	dir, err := os.MkdirTemp("", "kernelgw-probe-")
	if err != nil {
		return fmt.Errorf("cannot try a sandbox: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return fmt.Errorf("cannot try a sandbox: %w", err)
	}
	const program = "/runsc"
	spec := specs.Spec{
		Version: ociVersion,
		Process: &specs.Process{Args: []string{program, "--version"}, Cwd: "/", NoNewPrivileges: true},
		Root:    &specs.Root{Path: root},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: program, Type: "bind", Source: runsc, Options: []string{"bind", "ro"}},
		},
		Linux: &specs.Linux{},
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("cannot try a sandbox: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600); err != nil {
		return fmt.Errorf("cannot try a sandbox: %w", err)
	}

	// Attached, so that the death of this process or the end of ctx ends it all.
	args := append(commonFlags(rootless), "--network=none", "--root=.", "--overlay2=none", "--ignore-cgroups", "run", "--bundle", dir, "s")
	cmd := exec.CommandContext(ctx, runsc, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + safePath}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("cannot start a trial sandbox: %w: %s", err, lastLine(output.Bytes()))
	}
	if !bytes.Contains(output.Bytes(), []byte("runsc version")) {
		return fmt.Errorf("cannot start a trial sandbox: it printed %q", lastLine(output.Bytes()))
	}
	return nil
}

func lastLine(output []byte) string {
	output = bytes.TrimSpace(output)
	return string(output[bytes.LastIndexByte(output, '\n')+1:])
}

// forbidden says which setting of this host keeps ordinary users from making
// user namespaces, and how to change it. "" when none that is known of.
func forbidden() string {
	for _, setting := range []struct{ file, bad, remedy string }{
		{"/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"},
		{
			"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
			"give runsc an AppArmor profile with the userns permission, or sysctl kernel.apparmor_restrict_unprivileged_userns=0",
		},
	} {
		value, err := os.ReadFile(setting.file)
		if err == nil && strings.TrimSpace(string(value)) == setting.bad {
			return fmt.Sprintf("%s is %s: root can allow user namespaces with: %s", setting.file, setting.bad, setting.remedy)
		}
	}
	return ""
}
