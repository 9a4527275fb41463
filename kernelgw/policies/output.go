package policies

import (
	"encoding/json"
	"fmt"
)

// Output is how many bytes of streams and display data kernels may show. In a policy
// zero means the operator's; in what is in force it means no limit.
type Output struct {
	CellBytes   int64 `json:"cell_bytes,omitempty"`   // of one cell
	SecondBytes int64 `json:"second_bytes,omitempty"` // of a kernel, in a second on the average of some
}

// leastOutput is what a cell needs to say anything.
const leastOutput = 64 << 10

// outputLimits are the limits of Output, by their keys in a policy.
var outputLimits = []struct {
	key string
	of  func(*Output) *int64
}{
	{"output.cell_bytes", func(o *Output) *int64 { return &o.CellBytes }},
	{"output.second_bytes", func(o *Output) *int64 { return &o.SecondBytes }},
}

// parseOutput reads the part of a policy that is about output.
func parseOutput(text json.RawMessage) (*Output, error) {
	if !given(text) {
		return nil, nil
	}
	o := new(Output)
	return o, object("output.", text, map[string]any{"cell_bytes": &o.CellBytes, "second_bytes": &o.SecondBytes})
}

// consistentOutput is consistent for output.
func (b Bounds) consistentOutput(d *Output) error {
	for _, l := range outputLimits {
		given, most := l.of(d), *l.of(&b.Output)
		if *given == 0 {
			*given = most // by itself a default of 0 has no limit
		}
		if most != 0 && *given > most {
			return fmt.Errorf("%s: the default of %d is more than the most that a workspace may choose, %d", l.key, *given, most)
		}
	}
	return nil
}

// mostOutput returns how much may be chosen: as much as the default where the operator
// says nothing. Zero means any amount.
func (b Bounds) mostOutput(d Settings) Output {
	most := b.Output
	for _, l := range outputLimits {
		if m := l.of(&most); *m == 0 {
			*m = *l.of(&d.Output)
		}
	}
	return most
}

// checkOutput says why what was chosen is not allowed.
func (b Bounds) checkOutput(chosen *Output, d Settings) error {
	if chosen == nil {
		return nil
	}
	most := b.mostOutput(d)
	for _, l := range outputLimits {
		n, many := *l.of(chosen), *l.of(&most)
		switch {
		case n == 0:
		case n < leastOutput:
			return fmt.Errorf("%w: %s: %d; the least is %d", ErrInvalid, l.key, n, leastOutput)
		case many != 0 && n > many:
			return fmt.Errorf("%w: %s: %d; the most on this server is %d", ErrInvalid, l.key, n, many)
		}
	}
	return nil
}

// settleOutput returns what was chosen, cut to what is allowed.
func (b Bounds) settleOutput(chosen *Output, d Settings) Output {
	settled := d.Output
	if chosen == nil {
		return settled
	}
	most := b.mostOutput(d)
	for _, l := range outputLimits {
		n, many := *l.of(chosen), *l.of(&most)
		if many != 0 {
			n = min(n, many)
		}
		if n > 0 {
			*l.of(&settled) = n
		}
	}
	return settled
}
