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
	digit int    // after the point
	needs []need // what the project asks for
}

// need is a bound: on the ratio of kernelgw's process driver to the stock
// server or another, or on the figure itself.
type need struct {
	ratio       float64 // from 1 on the least, below the most
	times, part float64 // of the ratio: times is the most, from 1 on, and part the least, below
	of          string  // the server of the ratio, if it is not the stock one
	most, least float64
	none        bool // the figure is 0
}

var (
	latencyQuick = &figure{name: "execute round trip p50, client acknowledges at once", unit: "ms", digit: 3, needs: []need{{ratio: 1. / 5}, {times: 1.5, of: relay}}}
	latencyPlain = &figure{name: "execute round trip p50, ordinary client", unit: "ms", digit: 3}
	throughput   = &figure{name: "iopub messages of 100 B", unit: "1/s", needs: []need{{ratio: 15}, {part: .8, of: relay}}}
	gatewayCPU   = &figure{name: "server CPU a message", unit: "us", digit: 2, needs: []need{{ratio: 1. / 30}}}
	agentCPU     = &figure{name: "agent CPU a message, beside it", unit: "us", digit: 2}
	lost         = &figure{name: "messages lost", unit: ""}
	misordered   = &figure{name: "messages out of order", unit: ""}
	idleOpen     = &figure{name: "idle WebSockets open, of 500", unit: "", needs: []need{{least: 500}}}
	idleRSS      = &figure{name: "server memory (RSS) an idle WebSocket", unit: "KiB", digit: 1, needs: []need{{ratio: 1. / 3}, {most: 60}}}
	idleAgentRSS = &figure{name: "agent memory (RSS) an idle WebSocket, beside it", unit: "KiB", digit: 1}

	kernelLines = []*figure{latencyQuick, latencyPlain, throughput, gatewayCPU, agentCPU, lost, misordered, idleOpen, idleRSS, idleAgentRSS}

	cpu64K      = &figure{name: "server CPU a GB of messages of 64 KiB", unit: "s", digit: 3, needs: []need{{ratio: 1. / 5}}}
	agentCPU64K = &figure{name: "agent CPU, beside it", unit: "s", digit: 3}
	rate64K     = &figure{name: "messages of 64 KiB", unit: "MB/s"}
	cpu1M       = &figure{name: "server CPU a GB of messages of 1 MiB", unit: "s", digit: 3, needs: []need{{ratio: 1. / 4}}}
	agentCPU1M  = &figure{name: "agent CPU, beside it, of these", unit: "s", digit: 3}
	rate1M      = &figure{name: "messages of 1 MiB", unit: "MB/s"}
	fanOutCPU   = &figure{name: "server CPU a delivery, 100 clients of one kernel", unit: "us", digit: 2, needs: []need{{ratio: 1. / 30}}}
	fanOutAgent = &figure{name: "agent CPU a delivery, beside it", unit: "us", digit: 2}
	fanOutLost  = &figure{name: "deliveries lost", unit: ""}

	stalledGrowth = &figure{name: "server (and agent) memory (RSS) grown past a stalled reader", unit: "MiB", digit: 1, needs: []need{{most: 64}}}
	stalledTime   = &figure{name: "the other client's time, to that without a stalled one", unit: "", digit: 2, needs: []need{{most: 1.2}}}
	stalledLost   = &figure{name: "messages that the other client lost", unit: "", needs: []need{{none: true}}}

	politeLost    = &figure{name: "lost, client closes and comes back", unit: "", needs: []need{{none: true}}}
	abruptLost    = &figure{name: "lost, connection is reset", unit: "", needs: []need{{none: true}}}
	sharedLost    = &figure{name: "lost, reset, with another client at the kernel", unit: "", needs: []need{{none: true}}}
	returnOrder   = &figure{name: "out of order in all three", unit: "", needs: []need{{none: true}}}
	returnRepeats = &figure{name: "repeated in all three", unit: ""}

	streamLines = []*figure{
		cpu64K, agentCPU64K, rate64K, cpu1M, agentCPU1M, rate1M, fanOutCPU, fanOutAgent, fanOutLost,
		stalledGrowth, stalledTime, stalledLost, politeLost, abruptLost, sharedLost, returnOrder, returnRepeats,
	}

	createFile      = &figure{name: "create a file of 1 KiB p50", unit: "ms", digit: 2}
	listEntries     = &figure{name: "list 1000 entries p50", unit: "ms", digit: 1, needs: []need{{ratio: 1. / 3}}}
	lookPlain       = &figure{name: "a file's model, `content=0`, p50", unit: "ms", digit: 2}
	lookHashed      = &figure{name: "a file's model with `content=0&hash=1`, p50", unit: "ms", digit: 2}
	lookUneven      = &figure{name: "the same, kernelgw with `hash=1` and jupyter_server without", unit: "ms", digit: 2, needs: []need{{times: 2}}}
	saveNotebook    = &figure{name: "save a notebook of 5 MiB p50", unit: "ms", digit: 1, needs: []need{{ratio: 1. / 2}}}
	loadNotebook    = &figure{name: "load a notebook of 5 MiB p50", unit: "ms", digit: 1, needs: []need{{ratio: 1. / 2}}}
	renameDirectory = &figure{name: "rename a directory of 1000 files p50", unit: "ms", needs: []need{{ratio: 1. / 3, of: "s3contents"}}}
	memoryPeak      = &figure{name: "server memory (RSS) at its most in all of this", unit: "MiB", digit: 1, needs: []need{{most: 150}}}

	fileLines = []*figure{createFile, listEntries, lookPlain, lookHashed, lookUneven, saveNotebook, loadNotebook, renameDirectory, memoryPeak}

	firstVisit = &figure{name: "page ready, first visit of a new browser, p50", unit: "ms", needs: []need{{times: 1}}}
	nextVisit  = &figure{name: "page ready, next visit of the same browser, p50", unit: "ms", needs: []need{{times: 1}}}

	labLines = []*figure{firstVisit, nextVisit, memoryPeak}
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
	text = fmt.Sprintf("%s: %s", s, text)
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

// wanted says what a line asks for and whether s does it. base has the server of
// ratios that name no other.
func (f *figures) wanted(s, base subject, line *figure) string {
	var all []string
	for _, n := range line.needs {
		of := base
		if n.of != "" {
			of.server = n.of
		}
		value := median(f.values[key{s, line}])
		text, met, known := n.judge(value, value/median(f.values[key{of, line}]))
		if n.of != "" {
			text += " of " + n.of
		}
		switch {
		case math.IsNaN(known):
		case met:
			text += ": met"
		default:
			text += ": **missed**"
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

// judge says what is needed and whether it is so, which known says can be told
// unless it is no number.
func (n need) judge(value, ratio float64) (text string, met bool, known float64) {
	switch {
	case n.ratio >= 1:
		return fmt.Sprintf("at least %.0f times", n.ratio), ratio >= n.ratio, ratio
	case n.ratio > 0:
		return fmt.Sprintf("at most 1/%.0f", 1/n.ratio), ratio <= n.ratio, ratio
	case n.times == 1:
		return "no more", ratio <= 1, ratio
	case n.times > 0:
		return fmt.Sprintf("under %.3g times", n.times), ratio < n.times, ratio
	case n.part > 0:
		return fmt.Sprintf("at least %.3g times", n.part), ratio >= n.part, ratio
	case n.most > 0:
		return fmt.Sprintf("under %.3g", n.most), value < n.most, value
	case n.none:
		return "none", value == 0, value
	}
	return fmt.Sprintf("%.0f", n.least), value >= n.least, value
}

// any reports whether anything was measured in a part.
func (f *figures) any(part string) bool {
	for k := range f.values {
		if k.subject.part == part {
			return true
		}
	}
	return false
}

// measured reports whether anything was of a line.
func (f *figures) measured(line *figure) bool {
	for k := range f.values {
		if k.figure == line {
			return true
		}
	}
	return false
}

// table writes the lines that have at least one figure.
func (f *figures) table(b *strings.Builder, head []string, lines []*figure, cells func(*figure) []string) {
	row := func(cells []string) { fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | ")) }
	row(head)
	row(slices.Repeat([]string{"---"}, len(head)))
	for _, line := range lines {
		c := cells(line)
		if !f.measured(line) || !slices.ContainsFunc(c, func(s string) bool { return strings.ContainsAny(s, "0123456789") }) {
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
