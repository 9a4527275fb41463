package agent

import (
	"os/exec"
	"testing"
)

func TestParseMemoryKills(t *testing.T) {
	for text, want := range map[string]int64{
		"nr_free_pages 7\noom_kill 12\nnuma_hit 5\n": 12,
		"oom_kill 3":             3,
		"nr_free_pages 7\n":      0,
		"oom_kill\n":             0,
		"oom_kill x\n":           0,
		"oom_kill_of_others 9\n": 0,
		"":                       0,
	} {
		if got := parseMemoryKills([]byte(text)); got != want {
			t.Errorf("%q has %d kills, want %d", text, got, want)
		}
	}
}

// What the system ended for memory is told from what somebody killed.
func TestKillsForMemoryAreNamedAndNoOthers(t *testing.T) {
	ended := func(script string) *generation {
		cmd := exec.Command("/bin/sh", "-c", script)
		_ = cmd.Run() // its error is the state
		return &generation{proc: &process{state: cmd.ProcessState}}
	}
	now := memoryKills()
	for name, c := range map[string]struct {
		script string
		kills  int64 // that there were before
		limit  int64
		want   string
	}{
		"killed for memory":             {"kill -KILL $$", now - 1, 1 << 30, "killed: memory limit 1.0 GiB"},
		"killed for the host's memory":  {"kill -KILL $$", now - 1, 0, "killed: out of memory"},
		"killed while another exited":   {"exit 137", now - 1, 1 << 30, ""},
		"terminated":                    {"kill -TERM $$", now - 1, 1 << 30, ""},
		"killed when nothing ran short": {"kill -KILL $$", now + 1<<40, 1 << 30, ""},
	} {
		g := ended(c.script)
		g.kills.Store(c.kills)
		if got := g.outOfMemory(c.limit); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
