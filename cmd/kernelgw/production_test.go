package main

import (
	"strings"
	"testing"
	"testing/fstest"
)

func TestProductionFindings(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	good := fstest.MapFS{
		"sys/devices/system/cpu/smt/active":               file("0\n"),
		"sys/devices/system/cpu/vulnerabilities/meltdown": file("Mitigation: PTI\n"),
		"sys/kernel/mm/ksm/run":                           file("0\n"),
		"sys/module/apparmor/parameters/enabled":          file("Y\n"),
		"proc/cpuinfo":                                    file("processor\t: 0\nmicrocode\t: 0x2b000643\n"),
		"proc/swaps":                                      file("Filename\tType\tSize\tUsed\tPriority\n"),
		"proc/sys/kernel/unprivileged_bpf_disabled":       file("2\n"),
		"proc/sys/kernel/seccomp/actions_avail":           file("kill_process allow\n"),
	}
	for _, f := range production(good) {
		if !f.OK {
			t.Errorf("on a good host: %s: %s", f.Name, f.Detail)
		}
	}
	bad := fstest.MapFS{
		"sys/devices/system/cpu/smt/active":               file("1\n"),
		"sys/devices/system/cpu/vulnerabilities/meltdown": file("Vulnerable\n"),
		"sys/kernel/mm/ksm/run":                           file("1\n"),
		"proc/swaps":                                      file("Filename\tType\tSize\tUsed\tPriority\n/dev/vda2\tpartition\t1\t0\t-2\n"),
		"proc/sys/kernel/unprivileged_bpf_disabled":       file("0\n"),
	}
	for _, f := range production(bad) {
		if f.OK {
			t.Errorf("on a bad host: %s is well: %s", f.Name, f.Detail)
		}
		if f.Name == "CPU weaknesses" && !strings.Contains(f.Detail, "meltdown") {
			t.Errorf("the weakness is not named: %s", f.Detail)
		}
	}
}
