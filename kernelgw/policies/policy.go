package policies

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"kernelgw/sandboxes"
)

// Policy is what the members of a workspace chose. What is left out is as the
// operator set it.
type Policy struct {
	Network *Network `json:"network,omitempty"`
	Limits  *Limits  `json:"limits,omitempty"`
	Image   string   `json:"image,omitempty"`
	Output  *Output  `json:"output,omitempty"`
}

// Network replaces the operator's network as a whole: without Allow, no more
// hosts than Egress means. An Egress or Mirror that is left out is the operator's.
type Network struct {
	Egress sandboxes.Egress `json:"egress,omitempty"`
	Allow  []string         `json:"allow,omitempty"`
	Mirror string           `json:"mirror,omitempty"`
}

// Limits are the limits of each sandbox. Zero means the operator's.
type Limits struct {
	CPUs        float64 `json:"cpus,omitempty"`
	MemoryBytes int64   `json:"memory_bytes,omitempty"`
	Processes   int64   `json:"processes,omitempty"`
	DiskBytes   int64   `json:"disk_bytes,omitempty"`
	ShmBytes    int64   `json:"shm_bytes,omitempty"`
	OpenFiles   int64   `json:"open_files,omitempty"`
}

// Parse reads a policy from JSON: what it does not know is refused, because a
// limit that is misspelt must not be taken for one that is set. Whether the
// policy is allowed is another question. ErrInvalid.
func Parse(text []byte) (Policy, error) {
	var p Policy
	var network, limits, output json.RawMessage
	if err := object("", text, map[string]any{"network": &network, "limits": &limits, "image": &p.Image, "output": &output}); err != nil {
		return Policy{}, err
	}
	if given(network) {
		p.Network = new(Network)
		if err := object("network.", network, map[string]any{
			"egress": &p.Network.Egress, "allow": &p.Network.Allow, "mirror": &p.Network.Mirror,
		}); err != nil {
			return Policy{}, err
		}
	}
	if given(limits) {
		p.Limits = new(Limits)
		l := p.Limits
		if err := object("limits.", limits, map[string]any{
			"cpus": &l.CPUs, "memory_bytes": &l.MemoryBytes, "processes": &l.Processes,
			"disk_bytes": &l.DiskBytes, "shm_bytes": &l.ShmBytes, "open_files": &l.OpenFiles,
		}); err != nil {
			return Policy{}, err
		}
	}
	var err error
	p.Output, err = parseOutput(output)
	return p, err
}

// given reports whether there is a value, and not null, which means the default.
func given(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

// object reads a JSON object into the fields, whose names begin with path in
// messages. Names are compared exactly, as encoding/json would not.
func object(path string, text []byte, fields map[string]any) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil || all == nil {
		return fmt.Errorf("%w: %s must be a JSON object", ErrInvalid, strings.TrimSuffix(path, ".")+" policy")
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		field, ok := fields[key]
		if !ok {
			return fmt.Errorf("%w: %s%s: unknown key; known are %s", ErrInvalid, path, clip(key), strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
		}
		if err := json.Unmarshal(all[key], field); err != nil {
			return fmt.Errorf("%w: %s%s %s", ErrInvalid, path, key, wanted(field, err))
		}
	}
	return nil
}

// wanted says what a field takes.
func wanted(field any, err error) string {
	var wrong *json.UnmarshalTypeError
	if !errors.As(err, &wrong) {
		return "cannot be read"
	}
	switch field.(type) {
	case *int64:
		return "must be a whole number"
	case *float64:
		return "must be a number"
	case *[]string:
		return "must be a list of strings"
	}
	return "must be a string"
}

// clip bounds what of a client's text comes back in a message.
func clip(s string) string {
	if len(s) > 100 {
		return strings.ToValidUTF8(s[:100], "") + "…"
	}
	return s
}
