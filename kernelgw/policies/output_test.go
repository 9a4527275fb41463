package policies

import (
	"errors"
	"strings"
	"testing"

	"kernelgw/kernelgw/registry/memory"
)

const mib = 1 << 20

func TestOutputIsChosenWithinBounds(t *testing.T) {
	for name, c := range map[string]struct {
		preset, most Output // the operator's
		text         string // of a policy
		want         Output // in force
		refused      string
	}{
		"nothing chosen":             {preset: Output{64 * mib, 32 * mib}, text: `{}`, want: Output{64 * mib, 32 * mib}},
		"null":                       {preset: Output{64 * mib, 32 * mib}, text: `{"output": null}`, want: Output{64 * mib, 32 * mib}},
		"less":                       {preset: Output{64 * mib, 32 * mib}, text: `{"output": {"cell_bytes": 1048576}}`, want: Output{mib, 32 * mib}},
		"more than the default":      {preset: Output{64 * mib, 0}, text: `{"output": {"cell_bytes": 67108865}}`, refused: "output.cell_bytes: 67108865; the most on this server is 67108864"},
		"more, as the operator says": {preset: Output{mib, mib}, most: Output{2 * mib, 0}, text: `{"output": {"cell_bytes": 2097152}}`, want: Output{2 * mib, mib}},
		"any, where there is none":   {text: `{"output": {"cell_bytes": 2097152, "second_bytes": 65536}}`, want: Output{2 * mib, 64 << 10}},
		"none, where there is most":  {most: Output{mib, 0}, text: `{}`, want: Output{mib, 0}},
		"too little":                 {text: `{"output": {"second_bytes": 65535}}`, refused: "output.second_bytes: 65535; the least is 65536"},
		"negative":                   {text: `{"output": {"cell_bytes": -1}}`, refused: "the least"},
		"misspelt":                   {text: `{"output": {"cell": 1}}`, refused: "output.cell: unknown key; known are cell_bytes, second_bytes"},
		"no object":                  {text: `{"output": 5}`, refused: "must be a JSON object"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := New(Options{Store: memory.New(), Default: Settings{Output: c.preset}, Bounds: Bounds{Output: c.most}})
			if err != nil {
				t.Fatal(err)
			}
			policy, err := Parse([]byte(c.text))
			if err == nil {
				_, err = p.Set(t.Context(), "w", policy, 0, "ann")
			}
			if c.refused != "" {
				if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("%v, want %q", err, c.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if s, err := p.Of(t.Context(), "w"); s.Output != c.want || err != nil {
				t.Errorf("in force is %+v, %v, want %+v", s.Output, err, c.want)
			}
		})
	}
	if got := (Bounds{}).settleOutput(&Output{CellBytes: 9 * mib}, Settings{Output: Output{CellBytes: mib}}); got.CellBytes != mib {
		t.Errorf("what was chosen when more was allowed is %+v", got)
	}
	_, err := New(Options{Default: Settings{Output: Output{CellBytes: 2}}, Bounds: Bounds{Output: Output{CellBytes: 1}}})
	if err == nil || !strings.Contains(err.Error(), "output.cell_bytes") {
		t.Errorf("a default above the most: %v", err)
	}
}
