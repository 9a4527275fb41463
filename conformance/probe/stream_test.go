package probe

import (
	"strings"
	"testing"
)

// TestLossless holds the judge of the checks to what it must see.
func TestLossless(t *testing.T) {
	said := func(s string) (stream []Piece) {
		for word := range strings.SplitSeq(s, " ") {
			stream = append(stream, Piece{word, strings.ReplaceAll(word, ";", "\n")})
		}
		return stream
	}
	for _, c := range []struct {
		name, stream string
		ok           bool
		twice        int
	}{
		{"plain", "0; 1; 2;", true, 0},
		{"a line in two messages", "0; 1 ; 2;", true, 0},
		{"a break inside a line", "0; 1 0; 1 ; 2;", true, 2},
		{"twice at two breaks", "0; 1; 1; 2; 2;", true, 2},
		{"a loss", "0; 2;", false, 0},
		{"a loss at the end", "0; 1;", false, 0},
		{"a loss in a replay", "0; 1; 0; 2;", false, 0},
		{"a replay that jumps ahead", "0; 1; 2; 0; 2;", false, 0},
		{"a replay that stops", "0; 1; 2; 0;", false, 0},
		{"misordered", "1; 0; 2;", false, 0},
	} {
		problem, twice := Lossless(said(c.stream), 3)
		if (problem == "") != c.ok || c.ok && twice != c.twice {
			t.Errorf("%s: %q, %d twice", c.name, problem, twice)
		}
	}
}
