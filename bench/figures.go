package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// figure is one line of a table.
type figure struct {
	name  string
	unit  string
	digit int  // after the point
	need  need // what the project asks for
}

// need is a bound: on the ratio of kernelgw's process driver to the stock
// server, or on the figure itself.
type need struct {
	ratio, most, least float64
}

var (
	latencyQuick = &figure{name: "execute round trip p50, client acknowledges at once", unit: "ms", digit: 3, need: need{ratio: 1. / 4}}
	latencyPlain = &figure{name: "execute round trip p50, ordinary client", unit: "ms", digit: 3}
	throughput   = &figure{name: "iopub messages of 100 B", unit: "1/s", need: need{ratio: 10}}
	gatewayCPU   = &figure{name: "server CPU a message", unit: "us", digit: 2, need: need{ratio: 1. / 20}}
	agentCPU     = &figure{name: "agent CPU a message, beside it", unit: "us", digit: 2}
	lost         = &figure{name: "messages lost", unit: ""}
	misordered   = &figure{name: "messages out of order", unit: ""}
	idleOpen     = &figure{name: "idle WebSockets open, of 500", unit: "", need: need{least: 500}}
	idleRSS      = &figure{name: "server memory (RSS) an idle WebSocket", unit: "KiB", digit: 1, need: need{most: 60}}
	idleAgentRSS = &figure{name: "agent memory (RSS) an idle WebSocket, beside it", unit: "KiB", digit: 1}

	lines = []*figure{latencyQuick, latencyPlain, throughput, gatewayCPU, agentCPU, lost, misordered, idleOpen, idleRSS, idleAgentRSS}
)

type key struct {
	subject subject
	figure  *figure
}

// figures are all that was measured, a value a round.
type figures struct {
	values  map[key][]float64
	remarks []string
}

func newFigures() *figures { return &figures{values: map[key][]float64{}} }

func (f *figures) add(s subject, name *figure, value float64) {
	k := key{s, name}
	f.values[k] = append(f.values[k], value)
}

// remark keeps what should stand under the tables, once for each text.
func (f *figures) remark(s subject, text string) {
	text = fmt.Sprintf("%s, %s: %s", s.server, s.kernel, text)
	if !slices.Contains(f.remarks, text) {
		f.remarks = append(f.remarks, text)
	}
}

// median is NaN of nothing.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	if n := len(sorted); n%2 == 0 {
		return (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return sorted[len(sorted)/2]
}

// cell is "median (min-max)", or "-" when it was not measured.
func (f *figures) cell(s subject, line *figure) string {
	values := f.values[key{s, line}]
	if len(values) == 0 {
		return "-"
	}
	text := fmt.Sprintf("%.*f", line.digit, median(values))
	if len(values) > 1 {
		text += fmt.Sprintf(" (%.*f-%.*f)", line.digit, slices.Min(values), line.digit, slices.Max(values))
	}
	return text
}

// ratio is s to base, as "1/8.2" or "31".
func (f *figures) ratio(s, base subject, line *figure) string {
	r := median(f.values[key{s, line}]) / median(f.values[key{base, line}])
	switch {
	case math.IsNaN(r) || math.IsInf(r, 0) || r == 0:
		return "-"
	case r < 1:
		return fmt.Sprintf("1/%.1f", 1/r)
	}
	return fmt.Sprintf("%.1f", r)
}

// wanted says what a line asks for and whether s does it.
func (f *figures) wanted(s, base subject, line *figure) string {
	value := median(f.values[key{s, line}])
	ratio := value / median(f.values[key{base, line}])
	verdict := func(text string, met bool, of float64) string {
		switch {
		case math.IsNaN(of):
			return text
		case met:
			return text + ": met"
		}
		return text + ": **missed**"
	}
	switch n := line.need; {
	case n.ratio >= 1:
		return verdict(fmt.Sprintf("at least %.0f times", n.ratio), ratio >= n.ratio, ratio)
	case n.ratio > 0:
		return verdict(fmt.Sprintf("at most 1/%.0f", 1/n.ratio), ratio <= n.ratio, ratio)
	case n.most > 0:
		return verdict(fmt.Sprintf("under %.0f", n.most), value < n.most, value)
	case n.least > 0:
		return verdict(fmt.Sprintf("%.0f", n.least), value >= n.least, value)
	}
	return ""
}

// page is the whole page of Markdown.
func (f *figures) page(about machine, command string, p plan) string {
	var b strings.Builder
	b.WriteString(`# Performance

What kernelgw costs beside a stock jupyter_server, measured in one run with one
client and the same kernels. The page is written by the command below; absolute
figures depend on the machine, and of a shared machine only the ratios hold.

`)
	fmt.Fprintf(&b, "    %s\n\n", command)
	for _, line := range about {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	fmt.Fprintf(&b, "- %s, the servers in turns, each started afresh; medians (min-max)\n", count(p.rounds, "round"))

	b.WriteString(`
## A kernel that costs nothing

The kernel of jupyter/jupytertest/fakekernel, so that the server is what is
measured. The process driver runs it as jupyter_server does, as a plain child:
that is like for like, and what is asked for. The gvisor driver runs it, with its
agent, in a sandbox.

`)
	base, mine := subject{"stock", fakeKernel, true}, subject{"process", fakeKernel, true}
	sandboxed := subject{"gvisor", fakeKernel, true}
	f.table(&b, []string{"figure", "jupyter_server", "kernelgw, process", "ratio", "asked for", "kernelgw, gvisor", "ratio"}, lines, func(line *figure) []string {
		return []string{
			f.cell(base, line), f.cell(mine, line), f.ratio(mine, base, line), f.wanted(mine, base, line),
			f.cell(sandboxed, line), f.ratio(sandboxed, base, line),
		}
	})

	b.WriteString(`
## ipykernel

The same ipykernel for jupyter_server and kernelgw's process driver; the gvisor
driver runs the one of its image, inside a sandbox. Here most of the time is the
kernel's own.

`)
	base, mine = subject{"stock", pythonKernel, false}, subject{"process", pythonKernel, false}
	sandboxed = subject{"gvisor", imageKernel, false}
	f.table(&b, []string{"figure", "jupyter_server", "kernelgw, process", "ratio", "kernelgw, gvisor", "ratio"}, lines, func(line *figure) []string {
		return []string{f.cell(base, line), f.cell(mine, line), f.ratio(mine, base, line), f.cell(sandboxed, line), f.ratio(sandboxed, base, line)}
	})

	b.WriteString(`
## How to read this

- A round trip ends with the later of ` + "`execute_reply`" + ` and the ` + "`idle`" + ` status.
- A hundred round trips before those that count warm up each server.
- The fake kernel and the client of the round trips run on one thread each
  (GOMAXPROCS=1). Their time is in every server's figure.
- An ordinary client delays its TCP acknowledgements. jupyter_server does not set
  TCP_NODELAY, so its second small write waits for one, up to 40 ms. The client
  that acknowledges at once (TCP_QUICKACK) leaves that out: it is the fair
  comparison of the servers' work.
- jupyter_server runs with ` + "`limit_rate=False`" + `: by default it drops output over
  1000 messages a second, and what is dropped costs nothing to send.
- The rate counts from the first to the last message of one cell. Server CPU is
  that of the gateway process, or of jupyter_server, user and system, over the
  messages that arrived. kernelgw's agent is a process of its own, on the
  tenant's account; with gvisor it runs inside the sandbox and is not listed.
- Memory is the growth of the process's resident set over the WebSockets opened,
  all on one kernel, after ten that are not counted.
`)
	if len(f.remarks) > 0 {
		b.WriteString("\n## Seen\n\n")
		for _, r := range f.remarks {
			fmt.Fprintf(&b, "- %s\n", r)
		}
	}
	return b.String()
}

// table writes the lines that have at least one figure.
func (f *figures) table(b *strings.Builder, head []string, lines []*figure, cells func(*figure) []string) {
	row := func(cells []string) { fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | ")) }
	row(head)
	row(slices.Repeat([]string{"---"}, len(head)))
	for _, line := range lines {
		c := cells(line)
		if !slices.ContainsFunc(c, func(s string) bool { return strings.ContainsAny(s, "0123456789") }) {
			continue
		}
		name := line.name
		if line.unit != "" {
			name += ", " + line.unit
		}
		row(append([]string{name}, c...))
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
