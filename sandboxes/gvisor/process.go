package gvisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process names a process for good: pids are reused, a pid with its start
// time, in one boot, is not.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, field 22 of /proc/PID/stat
	Boot  string `json:"boot"`
}

// errGone: the process has ended, or is another one by now.
var errGone = errors.New("process is gone")

// identify returns the process that has this pid now.
func identify(pid int) (process, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return process{}, fmt.Errorf("cannot read the boot id: %w", err)
	}
	start, err := startTime(pid)
	if err != nil {
		return process{}, err
	}
	return process{PID: pid, Start: start, Boot: string(bytes.TrimSpace(boot))}, nil
}

func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return 0, errGone
	}
	if err != nil {
		return 0, fmt.Errorf("cannot identify process %d: %w", pid, err)
	}
	// The name in field 2 may hold spaces and parentheses; state, field 3,
	// follows the last one.
	_, rest, _ := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return 0, fmt.Errorf("cannot identify process %d: short /proc stat", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// open returns a pidfd of p, readable when p has ended. errGone when it has
// already been reaped.
func (p process) open() (*os.File, error) {
	if p.PID <= 0 {
		return nil, errGone
	}
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, errGone
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open process %d: %w", p.PID, err)
	}
	// Asked for after the pidfd is held, so that the answer is about it.
	now, err := identify(p.PID)
	if err == nil && now != p {
		err = errGone
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// kill sends SIGKILL to p. A process that is gone is no error.
func (p process) kill() error {
	f, err := p.open()
	if errors.Is(err, errGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.PidfdSendSignal(int(f.Fd()), unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cannot kill process %d: %w", p.PID, err)
	}
	return nil
}

// alive reports whether p runs; a zombie does not.
func (p process) alive() (bool, error) {
	f, err := p.open()
	if errors.Is(err, errGone) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}, 0)
	if err != nil {
		return false, fmt.Errorf("cannot look at process %d: %w", p.PID, err)
	}
	return n == 0, nil
}

// wait blocks until p has ended, reaped or not.
func (p process) wait(ctx context.Context) error {
	f, err := p.open()
	if errors.Is(err, errGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	conn, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("cannot wait for process %d: %w", p.PID, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = conn.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || (err != nil && !errors.Is(err, unix.EINTR))
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("cannot wait for process %d: %w", p.PID, err)
	}
	return nil
}

// mentioning returns the live processes that have dir, or its bundle, as an
// argument: the supervisor of the sandbox in dir, runsc, the gofer and the
// sentry. It is how processes are found that nobody could record.
func mentioning(dir string) []process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	bundle := filepath.Join(dir, bundleName)
	var found []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// The identity first: if the pid changes hands in between, it is the
		// dead one that will not be killed.
		p, err := identify(pid)
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue
		}
		args := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
		if !isOurs(args, dir, bundle) {
			continue
		}
		found = append(found, p)
	}
	return found
}

func isOurs(args []string, dir, bundle string) bool {
	if n := len(args); n >= 2 && args[n-2] == SupervisorCommand && args[n-1] == dir {
		return true
	}
	for i, a := range args {
		if a == "--bundle="+bundle || (a == "--bundle" && i+1 < len(args) && args[i+1] == bundle) {
			return true
		}
	}
	return false
}
