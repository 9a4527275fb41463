package kernels

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Limits on the environment that a client may ask for.
const (
	maxEnvNames = 200
	maxEnvBytes = 64 << 10 // all names and values together
)

var kernelEnvName = regexp.MustCompile(`^KERNEL_[A-Z0-9_]{1,100}$`)

// filterEnv returns what of a client's environment reaches the kernel: names
// of the form KERNEL_* and those that the configuration allows. Everything else
// is left out without an error, because stock clients send more than is wanted.
// Values are data: nothing here or later expands, templates or interprets them.
func (m *Manager) filterEnv(asked map[string]string) (map[string]string, error) {
	kept := map[string]string{}
	size := 0
	for name, value := range asked {
		if !kernelEnvName.MatchString(name) && !slices.Contains(m.o.AllowedEnv, name) {
			continue
		}
		if strings.ContainsRune(value, 0) {
			return nil, fmt.Errorf("%w: the value of environment variable %s holds a NUL character", ErrInvalid, name)
		}
		size += len(name) + len(value)
		kept[name] = value
	}
	if len(kept) > maxEnvNames || size > maxEnvBytes {
		return nil, fmt.Errorf("%w: environment of %d variables and %d bytes; the limits are %d and %d",
			ErrInvalid, len(kept), size, maxEnvNames, maxEnvBytes)
	}
	return kept, nil
}
