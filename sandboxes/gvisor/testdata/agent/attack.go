package main

import (
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// attack does one thing that must not succeed, or must not harm anybody else,
// and says what it saw.
func attack(name string, args []string) string {
	switch name {
	case "hello":
		return fmt.Sprintf("uid %d gid %d pid-is-1 %v", os.Getuid(), os.Getgid(), os.Getpid() == 1)
	case "sleep":
		time.Sleep(time.Hour)
		return ""
	case "read": // a file
		data, err := os.ReadFile(args[0])
		if err != nil {
			return "error: " + err.Error()
		}
		return string(data)
	case "write":
		if err := os.WriteFile(args[0], []byte("planted"), 0o644); err != nil {
			return "error: " + err.Error()
		}
		return "written"
	case "search": // every file that can be read, for a secret given in two halves
		return search(args[0] + args[1])
	case "dial":
		c, err := net.DialTimeout(args[0], args[1], 3*time.Second)
		if err != nil {
			return "error: " + err.Error()
		}
		c.Close()
		return "connected"
	case "interfaces":
		ifs, err := net.Interfaces()
		if err != nil {
			return "error: " + err.Error()
		}
		var names []string
		for _, i := range ifs {
			names = append(names, i.Name)
		}
		return strings.Join(names, ",")
	case "root": // every way to more rights
		return becomeRoot()
	case "fill": // a directory's disk
		return fill(args[0])
	case "allocate": // memory without end
		var all [][]byte
		for {
			b := make([]byte, 64<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			all = append(all, b)
			if len(all) > 1<<10 {
				return "got 64 GiB"
			}
		}
	case "files": // empty ones without end, in a directory
		return makeFiles(args[0])
	case "bomb": // processes that each make processes
		return bomb()
	case "bomblet":
		for {
			cmd := exec.Command(program, "attack", "bomblet")
			if err := cmd.Start(); err != nil {
				time.Sleep(10 * time.Millisecond)
			}
		}
	case "status":
		data, _ := os.ReadFile("/proc/self/status")
		return string(data)
	}
	return "error: no attack " + name
}

func makeFiles(dir string) string {
	const enough = 2_000_000
	for i := range enough {
		if err := syscall.Mknod(fmt.Sprintf("%s/%d", dir, i), syscall.S_IFREG|0o600, 0); err != nil {
			return fmt.Sprintf("%d files, then: %v", i, err)
		}
	}
	return fmt.Sprintf("%d files", enough)
}

func search(secret string) string {
	var found []string
	seen := 0
	_ = filepath.WalkDir("/", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(path, "/sys/") {
			return nil
		}
		if strings.HasPrefix(path, fmt.Sprintf("/proc/%d/", os.Getpid())) || strings.HasPrefix(path, "/proc/self") || strings.HasPrefix(path, "/proc/thread-self") {
			return nil // this process was given the secret
		}
		f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return nil
		}
		defer f.Close()
		data, _ := io.ReadAll(io.LimitReader(f, 16<<20))
		seen++
		if strings.Contains(string(data), secret) {
			found = append(found, path)
		}
		return nil
	})
	return fmt.Sprintf("seen %d found %v", seen, found)
}

func becomeRoot() string {
	var got []string
	try := func(what string, err error) {
		if err == nil {
			got = append(got, what)
		}
	}
	try("setuid", syscall.Setuid(0))
	try("setgroups", syscall.Setgroups([]int{0}))
	try("mount", syscall.Mount("tmpfs", "/tmp", "tmpfs", 0, ""))
	try("chroot", syscall.Chroot("/"))
	try("mknod", syscall.Mknod("/tmp/mem", syscall.S_IFCHR|0o666, 1<<8|1))
	try("sethostname", syscall.Sethostname([]byte("owned")))
	try("ptrace of the agent", syscall.PtraceAttach(1))
	try("kill of the agent", syscall.Kill(1, syscall.SIGTERM))
	_, err := os.ReadDir("/run/kernelgw")
	try("the agent's directory", err)
	for _, p := range []string{
		"/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/dev/mem", "/dev/kvm", "/dev/vda", "/proc/kcore",
		"/sys/fs/cgroup/release_agent", "/sys/kernel/uevent_helper", "/etc/passwd", "/run/kernelgw/kernelagent", program, "/usr/x",
	} {
		f, err := os.OpenFile(p, os.O_WRONLY, 0)
		if err == nil {
			f.Close()
		}
		try("write "+p, err)
	}
	return fmt.Sprint(got)
}

func fill(dir string) string {
	f, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		return "error: " + err.Error()
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 7)
	}
	written := 0
	for written < 64<<10 {
		if _, err := f.Write(block); err != nil {
			return fmt.Sprintf("%d MiB, then: %v", written, err)
		}
		written++
	}
	return "64 GiB written"
}

func bomb() string {
	started := 0
	for {
		cmd := exec.Command(program, "attack", "sleep")
		if err := cmd.Start(); err != nil {
			return fmt.Sprintf("%d started, then: %v", started, err)
		}
		if started++; started > 100_000 {
			return "100000 started"
		}
	}
}
