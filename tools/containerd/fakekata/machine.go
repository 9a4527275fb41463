package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// machine is what stands for the virtual machine of a pod.
type machine struct {
	pod  string
	qemu *exec.Cmd
	fs   *exec.Cmd
	dead chan struct{} // closed when qemu has ended
}

// startMachine does what a shim does before its first container.
func startMachine(spec *specs.Spec, pod string) (*machine, error) {
	for _, dir := range machineDirs(pod) {
		if _, err := os.Stat(dir); err == nil {
			return nil, fmt.Errorf("cannot create sandbox %s: %s exists", pod, dir)
		}
	}
	// Also when what follows fails.
	for _, dir := range machineDirs(pod) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	if err := useNetwork(spec); err != nil {
		return nil, err
	}
	if spec.Linux.CgroupsPath != "" {
		// Left behind on hosts with control groups of version 1.
		path := filepath.Join("/sys/fs/cgroup/memory", filepath.Dir(spec.Linux.CgroupsPath), "kata_"+filepath.Base(spec.Linux.CgroupsPath))
		if err := os.MkdirAll(path, 0o755); err != nil {
			return nil, err
		}
	}
	m := &machine{pod: pod, dead: make(chan struct{})}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	process := func(args ...string) (*exec.Cmd, error) {
		cmd := &exec.Cmd{Path: self, Args: args, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
		return cmd, cmd.Start()
	}
	if m.fs, err = process("virtiofsd", "--socket-path="+machineDirs(pod)[0]+"/fs.sock"); err != nil {
		return nil, err
	}
	if m.qemu, err = process("qemu-system-x86_64", "-name", "sandbox-"+pod+",debug-threads=on", "-m", "2048M"); err != nil {
		return nil, err
	}
	go m.watch()
	return m, nil
}

// watch notices the machine's end. The shim's reaper may have the exit status.
func (m *machine) watch() {
	defer close(m.dead)
	_ = m.qemu.Wait()
	_ = m.fs.Process.Kill()
	_ = m.fs.Wait()
}

func (m *machine) stop() {
	_ = m.qemu.Process.Kill()
	<-m.dead
	for _, dir := range machineDirs(m.pod) {
		_ = os.RemoveAll(dir)
	}
}

// useNetwork takes a network namespace as Kata does: what is not in it by now is
// not seen by the guest, and what Kata puts into it stays and keeps others out.
func useNetwork(spec *specs.Spec) error {
	path := ""
	for _, n := range spec.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			path = n.Path
		}
	}
	if path == "" {
		return nil // a guest with a loopback only
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	if _, err := h.LinkByName("tap0_kata"); err == nil {
		return fmt.Errorf("could not create tap0_kata: file exists")
	}
	addresses, err := h.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	reachable := false
	for _, a := range addresses {
		reachable = reachable || !a.IP.IsLoopback()
	}
	if !reachable {
		return fmt.Errorf("the network namespace has no address: the guest would have none")
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "tap0_kata"
	// Not every kernel has taps.
	return h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "tap0_peer"})
}

// machineDirs are the directories of a pod's machine.
func machineDirs(pod string) []string {
	if isGo() {
		return []string{"/run/vc/vm/" + pod, "/run/vc/sbs/" + pod}
	}
	return []string{"/run/kata/" + pod}
}

// killMachine kills a pod's machine by its command line.
func killMachine(pod string) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		cmdline, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || !strings.Contains(string(cmdline), "\x00sandbox-"+pod+",") && !strings.Contains(string(cmdline), "/"+pod+"/fs.sock") {
			continue
		}
		var pid int
		if _, err := fmt.Sscan(e.Name(), &pid); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
