package kernels

import (
	"regexp"
	"slices"
)

var kernelEnvName = regexp.MustCompile(`^KERNEL_[A-Z0-9_]{1,100}$`)

// filterEnv returns what of a client's environment reaches the kernel: names
// of the form KERNEL_* and those that the configuration allows. Everything else
// is left out without an error, because stock clients send more than is wanted.
// Values are data: nothing here or later expands, templates or interprets them.
func (m *Manager) filterEnv(asked map[string]string) map[string]string {
	kept := map[string]string{}
	for name, value := range asked {
		if kernelEnvName.MatchString(name) || slices.Contains(m.o.AllowedEnv, name) {
			kept[name] = value
		}
	}
	return kept
}
