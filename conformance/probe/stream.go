package probe

import (
	"fmt"
	"strings"
)

// Piece is one stream message of a cell. A kernel may flush a line in two of them,
// and a socket may break in between.
type Piece struct{ ID, Text string }

// Lossless says what is wrong with a stream of the numbers below n when breaks
// may have delivered some messages twice, but lost or misordered none: a replay
// goes back to one message and on from there, one after the other.
func Lossless(stream []Piece, n int) (problem string, duplicates int) {
	place := make(map[string]int)
	var text strings.Builder
	due := 0
	for _, c := range stream {
		at, again := place[c.ID]
		switch {
		case again && at > due:
			return fmt.Sprintf("message %d of the output where %d was due", at, due), duplicates
		case again:
			duplicates++
			due = at + 1
		case due < len(place):
			return fmt.Sprintf("new output %q inside a replay, where message %d was due", c.Text, due), duplicates
		default:
			place[c.ID] = due
			due++
			text.WriteString(c.Text)
		}
	}
	lines := strings.Fields(text.String())
	for i, line := range lines {
		if line != fmt.Sprint(i) {
			return fmt.Sprintf("line %q where %d was due", line, i), duplicates
		}
	}
	if due < len(place) {
		return fmt.Sprintf("a replay ends at message %d of %d", due, len(place)), duplicates
	}
	if len(lines) != n {
		return fmt.Sprintf("lines end before %d of %d", len(lines), n), duplicates
	}
	return "", duplicates
}
