package sandboxtest

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// testDaemons: what a cell detaches from its kernel ends with the sandbox, by
// Destroy and by the death of the agent.
func testDaemons(b *bench) {
	const cell = `
import os, subprocess
subprocess.Popen(["sleep", "3600"])
subprocess.Popen(["sleep", "3600"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in (0, 1, 2):
            os.dup2(os.open(os.devnull, os.O_RDWR), fd)
        os.execvp("sleep", ["sleep", "3600"])
    os._exit(0)
print("planted")
`
	for _, end := range []string{"Destroy", "kill -9 of the agent, then Destroy"} {
		sb, agent := b.start()
		ctx, cancel := context.WithTimeout(b.ctx, b.h.StartTimeout)
		out, err := agent.execute(ctx, cell)
		cancel()
		if err != nil || strings.TrimSpace(out) != "planted" {
			b.Fatalf("the cell printed %q, %v", out, err)
		}
		if end != "Destroy" {
			b.h.KillAgent(b.T, b.d, sb)
			b.ended(sb.Spec.ID, b.h.patience(endTimeout))
		}
		b.destroy(sb.Spec.ID)
	}
}

// testTokenSearch: code in a kernel reads every file and every process that
// it can reach and looks for the agent's token.
func testTokenSearch(b *bench) {
	if !b.d.Capabilities().Isolated {
		return // nothing is promised: the kernel is the gateway's own user
	}
	sb, agent := b.start()
	// The token is sent in halves: the cell's own source must not be a find.
	half := len(agent.token) / 2
	cell := fmt.Sprintf(`
import os
token = %q.encode() + %q.encode()
me = str(os.getpid())
seen = 0
def look(path):
    global seen
    try:
        with open(path, "rb") as f:
            data = f.read(1 << 20)
    except OSError:
        return
    seen += 1
    if token in data:
        print("found in", path)
for top, dirs, files in os.walk("/"):
    if top == "/":
        dirs[:] = [d for d in dirs if d not in ("proc", "sys", "usr", "dev")]
    for name in files:
        look(os.path.join(top, name))
for pid in os.listdir("/proc"):
    if not pid.isdigit():
        continue
    for name in ("environ", "cmdline"):
        look(f"/proc/{pid}/{name}")
    if pid != me:
        try:
            fds = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for fd in fds:
            path = f"/proc/{pid}/fd/{fd}"
            if os.path.isfile(path):
                look(path)
print("searched", seen > 20)
`, agent.token[:half], agent.token[half:])
	ctx, cancel := context.WithTimeout(b.ctx, b.h.StartTimeout+time.Minute)
	defer cancel()
	out, err := agent.execute(ctx, cell)
	if err != nil {
		b.Fatalf("the search failed: %v\n%s", err, out)
	}
	if strings.TrimSpace(out) != "searched True" {
		b.Errorf("kernel of %s searched for the agent's token:\n%s", sb.Spec.ID, out)
	}
}
