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
// server or another, or on the figure itself.
type need struct {
	ratio, times float64 // from 1 on, ratio is the least and times the most
	of           string  // the server of the ratio, if it is not the stock one
	most, least  float64
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

	kernelLines = []*figure{latencyQuick, latencyPlain, throughput, gatewayCPU, agentCPU, lost, misordered, idleOpen, idleRSS, idleAgentRSS}

	createFile      = &figure{name: "create a file of 1 KiB p50", unit: "ms", digit: 2}
	listEntries     = &figure{name: "list 1000 entries p50", unit: "ms", digit: 1, need: need{ratio: 1. / 3}}
	lookPlain       = &figure{name: "a file's model, `content=0`, p50", unit: "ms", digit: 2}
	lookHashed      = &figure{name: "a file's model with `content=0&hash=1`, p50", unit: "ms", digit: 2}
	lookUneven      = &figure{name: "the same, kernelgw with `hash=1` and jupyter_server without", unit: "ms", digit: 2, need: need{times: 2}}
	saveNotebook    = &figure{name: "save a notebook of 5 MiB p50", unit: "ms", digit: 1, need: need{ratio: 1. / 2}}
	loadNotebook    = &figure{name: "load a notebook of 5 MiB p50", unit: "ms", digit: 1, need: need{ratio: 1. / 2}}
	renameDirectory = &figure{name: "rename a directory of 1000 files p50", unit: "ms", need: need{ratio: 1. / 3, of: "s3contents"}}
	memoryPeak      = &figure{name: "server memory (RSS) at its most in all of this", unit: "MiB", digit: 1, need: need{most: 150}}

	fileLines = []*figure{createFile, listEntries, lookPlain, lookHashed, lookUneven, saveNotebook, loadNotebook, renameDirectory, memoryPeak}

	firstVisit = &figure{name: "page ready, first visit of a new browser, p50", unit: "ms", need: need{times: 1}}
	nextVisit  = &figure{name: "page ready, next visit of the same browser, p50", unit: "ms", need: need{times: 1}}

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

// wanted says what a line asks for and whether s does it.
func (f *figures) wanted(s, base subject, line *figure) string {
	value := median(f.values[key{s, line}])
	ratio := value / median(f.values[key{base, line}])
	verdict := func(text string, met bool, of float64) string {
		if line.need.of != "" {
			text += " of " + line.need.of
		}
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
	case n.times == 1:
		return verdict("no more", ratio <= 1, ratio)
	case n.times > 0:
		return verdict(fmt.Sprintf("under %.0f times", n.times), ratio < n.times, ratio)
	case n.most > 0:
		return verdict(fmt.Sprintf("under %.0f", n.most), value < n.most, value)
	case n.least > 0:
		return verdict(fmt.Sprintf("%.0f", n.least), value >= n.least, value)
	}
	return ""
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
