package main

import (
	"io/fs"
	"path"
	"slices"
	"strings"
)

// production returns what a host that runs untrusted code for several tenants
// should be like, as Firecracker's guide to production hosts says (docs/
// prod-host-setup.md there), and is or is not. host is the root directory.
// None of it keeps the gateway from working.
func production(host fs.FS) []finding {
	return []finding{
		smt(host), vulnerabilities(host), microcode(host), swap(host), ksm(host), bpf(host), seccomp(host), apparmor(host),
	}
}

// hostFile reads a file, "" when it cannot be read.
func hostFile(host fs.FS, name string) string {
	content, err := fs.ReadFile(host, name)
	if err != nil {
		return ""
	}
	return string(content)
}

// hostLine reads the first line of a file, "" when it cannot be read.
func hostLine(host fs.FS, name string) string {
	line, _, _ := strings.Cut(hostFile(host, name), "\n")
	return strings.TrimSpace(line)
}

func smt(host fs.FS) finding {
	f := finding{Name: "hyper-threads"}
	switch hostLine(host, "sys/devices/system/cpu/smt/active") {
	case "0":
		f.OK, f.Detail = true, "off, or the host has none"
	case "1":
		f.Detail = "on: two tenants may share a core and what it leaks; boot with nosmt, or keep tenants apart by core scheduling"
	default:
		f.Detail = "cannot be seen from here"
	}
	return f
}

func vulnerabilities(host fs.FS) finding {
	const dir = "sys/devices/system/cpu/vulnerabilities"
	f := finding{Name: "CPU weaknesses"}
	entries, err := fs.ReadDir(host, dir)
	if err != nil || len(entries) == 0 {
		f.Detail = "cannot be seen from here"
		return f
	}
	var open []string
	for _, e := range entries {
		if strings.HasPrefix(hostLine(host, path.Join(dir, e.Name())), "Vulnerable") {
			open = append(open, e.Name())
		}
	}
	if len(open) > 0 {
		f.Detail = "without mitigation: " + strings.Join(open, ", ") + "; update kernel and microcode, and boot without mitigations=off"
		return f
	}
	f.OK, f.Detail = true, "those that the kernel knows are mitigated"
	return f
}

func microcode(host fs.FS) finding {
	f := finding{Name: "microcode"}
	for line := range strings.Lines(hostFile(host, "proc/cpuinfo")) {
		name, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) == "microcode" {
			f.OK, f.Detail = true, "revision "+strings.TrimSpace(value)+"; whether it is the newest is for your distribution to say"
			return f
		}
	}
	f.Detail = "revision unknown: a virtual machine, or another architecture"
	return f
}

func swap(host fs.FS) finding {
	lines := slices.Collect(strings.Lines(hostFile(host, "proc/swaps")))
	switch len(lines) {
	case 0:
		return finding{"swap", false, "cannot be seen from here"}
	case 1: // the heading
		return finding{"swap", true, "off: tenants' memory stays in memory"}
	default:
		return finding{"swap", false, "on: tenants' memory is written to disk; swapoff -a"}
	}
}

func ksm(host fs.FS) finding {
	switch hostLine(host, "sys/kernel/mm/ksm/run") {
	case "1":
		return finding{"page sharing", false, "KSM is on: tenants can learn of each other's memory by timing; write 2 to /sys/kernel/mm/ksm/run"}
	default:
		return finding{"page sharing", true, "KSM is off"}
	}
}

func bpf(host fs.FS) finding {
	switch hostLine(host, "proc/sys/kernel/unprivileged_bpf_disabled") {
	case "0":
		return finding{"unprivileged BPF", false, "allowed: set kernel.unprivileged_bpf_disabled=1"}
	default:
		return finding{"unprivileged BPF", true, "forbidden, or not in this kernel"}
	}
}

func seccomp(host fs.FS) finding {
	if actions := hostLine(host, "proc/sys/kernel/seccomp/actions_avail"); actions != "" {
		return finding{"seccomp", true, actions}
	}
	return finding{"seccomp", false, "this kernel filters no system calls: gVisor and runc hold less"}
}

func apparmor(host fs.FS) finding {
	if hostLine(host, "sys/module/apparmor/parameters/enabled") == "Y" {
		return finding{"AppArmor", true, "on"}
	}
	return finding{"AppArmor", false, "off, or not in this kernel: one layer less, none that kernelgw relies on"}
}
