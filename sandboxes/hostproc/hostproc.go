// Package hostproc names, watches and kills processes of this host. It is for
// drivers that must find their processes again after the gateway restarted: a
// pid alone may by then be somebody else's. Linux only.
package hostproc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone: the process has ended and was reaped, or its pid is another's by now.
var ErrGone = errors.New("process is gone")

// ID names one process for good: a pid is reused, but not with the same start
// time in the same boot of the host. The zero ID names nothing: it is gone.
type ID struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks from boot to start: field 22 of /proc/PID/stat
	Boot  string `json:"boot"`  // the kernel's random boot_id
}

// Identify returns the ID of the process, or zombie, that has this pid now.
func Identify(pid int) (ID, error) {
	p, err := readStat(pid)
	if err != nil {
		return ID{}, err
	}
	return p.ID()
}

func bootID() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("cannot tell this boot of the host from others: %w", err)
	}
	return string(bytes.TrimSpace(boot)), nil
}

// Signal sends sig. ErrGone when there is nothing to send it to.
func (p ID) Signal(sig unix.Signal) error {
	f, err := p.open()
	if err != nil {
		return err
	}
	defer f.Close()
	err = control(f, func(fd int) error { return unix.PidfdSendSignal(fd, sig, nil, 0) })
	if errors.Is(err, unix.ESRCH) {
		return ErrGone
	}
	if err != nil {
		return fmt.Errorf("cannot send %v to process %d: %w", sig, p.PID, err)
	}
	return nil
}

// Kill sends SIGKILL. That the process is gone is no error.
func (p ID) Kill() error {
	if err := p.Signal(unix.SIGKILL); !errors.Is(err, ErrGone) {
		return err
	}
	return nil
}

// Alive reports whether the process runs; a zombie does not.
func (p ID) Alive() (bool, error) {
	f, err := p.open()
	if errors.Is(err, ErrGone) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	var ended bool
	if err := control(f, func(fd int) (err error) { ended, err = readable(fd); return err }); err != nil {
		return false, fmt.Errorf("cannot look at process %d: %w", p.PID, err)
	}
	return !ended, nil
}

// Wait blocks until the process has ended, reaped or not, whoever its parent
// is; it does not reap. When ctx ends before, Wait returns ctx's error.
func (p ID) Wait(ctx context.Context) error {
	f, err := p.open()
	if errors.Is(err, ErrGone) {
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
	// The runtime's poller waits for the pidfd: no thread is held.
	var failed error
	err = conn.Read(func(fd uintptr) bool {
		ended, err := readable(int(fd))
		failed = err
		return ended || err != nil
	})
	switch {
	case err == nil && failed == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		return fmt.Errorf("cannot wait for process %d: %w", p.PID, errors.Join(err, failed))
	}
}

// open returns a pidfd, which is readable once the process has ended.
func (p ID) open() (*os.File, error) {
	if p.PID <= 0 {
		return nil, ErrGone
	}
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) { // EINVAL: a thread's id by now
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open process %d: %w", p.PID, err)
	}
	// Asked while the pidfd is held, so that the answer is about its process.
	now, err := Identify(p.PID)
	if err == nil && now != p {
		err = ErrGone
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// control calls f with the descriptor. File.Fd would make it blocking and
// take it from the poller.
func control(file *os.File, f func(fd int) error) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := conn.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return err
	}
	return failed
}

func readable(fd int) (bool, error) {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0, err
		}
	}
}

// Process is one line of the process table.
type Process struct {
	PID, Parent, Group, Session int
	Start                       uint64 // as in ID
	// Zombie: dead and not reaped. A process whose first thread has exited looks
	// like one, but its other threads run.
	Zombie bool
	// headless: the first thread has exited and others have not.
	headless bool
	// placed: its memory has a place for an environment, which is so once its
	// execve is done. False, too, where this process may not know.
	placed bool
}

// ID returns the ID of the process that the line is about, whoever has its pid
// by now.
func (p Process) ID() (ID, error) {
	boot, err := bootID()
	return ID{PID: p.PID, Start: p.Start, Boot: boot}, err
}

// Table returns all processes that this process can see, by pid. Those that
// come or go meanwhile may be missing.
func Table() (map[int]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("cannot list processes: %w", err)
	}
	table := make(map[int]Process, len(entries))
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p, err := readStat(pid)
		if errors.Is(err, ErrGone) || errors.Is(err, fs.ErrPermission) { // another user's, with hidepid=1
			continue
		}
		if err != nil {
			return nil, err
		}
		table[pid] = p
	}
	return table, nil
}

func readStat(pid int) (Process, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return Process{}, ErrGone
	}
	if err != nil {
		return Process{}, fmt.Errorf("cannot look at process %d: %w", pid, err)
	}
	p, err := parseStat(stat)
	if err != nil {
		return Process{}, fmt.Errorf("cannot look at process %d: %w", pid, err)
	}
	return p, nil
}

// envEnd is the index of env_end, field 51, in what follows the name: the last
// that execve sets, from nothing.
const envEnd = 51 - 3

// parseStat reads a /proc/PID/stat, proc(5). The process chose the name in
// field 2 and may have put spaces, parentheses and newlines into it; field 3
// follows the last parenthesis.
func parseStat(stat []byte) (Process, error) {
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return Process{}, fmt.Errorf("malformed stat %.80q", stat)
	}
	fields := strings.Fields(string(stat[end+1:])) // fields[0] is field 3
	if len(fields) < 20 {
		return Process{}, fmt.Errorf("short stat %.80q", stat)
	}
	pid, err1 := strconv.Atoi(string(bytes.TrimSpace(stat[:open])))
	parent, err2 := strconv.Atoi(fields[1])
	group, err3 := strconv.Atoi(fields[2])
	session, err4 := strconv.Atoi(fields[3])
	threads, err5 := strconv.Atoi(fields[17])
	start, err6 := strconv.ParseUint(fields[19], 10, 64)
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return Process{}, fmt.Errorf("malformed stat: %w", err)
	}
	exited := fields[0] == "Z" || fields[0] == "X"
	return Process{
		PID: pid, Parent: parent, Group: group, Session: session, Start: start,
		Zombie: exited && threads <= 1, headless: exited && threads > 1,
		placed: len(fields) > envEnd && fields[envEnd] != "0",
	}, nil
}
