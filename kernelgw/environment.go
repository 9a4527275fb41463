package kernelgw

import (
	"regexp"
	"strings"
)

// Limits of the environment that a client may give a kernel. Values are data:
// nothing here or later expands, templates or splits them.
const (
	maxEnvNames = 256
	maxEnvName  = 256
	maxEnvValue = 32 << 10
	maxEnvTotal = 256 << 10
)

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// checkEnv refuses an environment that cannot be one, or is too large. Which
// names count is the business of package kernels.
func checkEnv(env map[string]string) error {
	if len(env) > maxEnvNames {
		return badRequest("env has %d variables; the limit is %d", len(env), maxEnvNames)
	}
	total := 0
	for name, value := range env {
		switch {
		case len(name) > maxEnvName:
			return badRequest("env has a name of %d bytes; the limit is %d", len(name), maxEnvName)
		case !envName.MatchString(name):
			return badRequest("env: %q cannot name a variable", name)
		case len(value) > maxEnvValue:
			return badRequest("env: the value of %s has %d bytes; the limit is %d", name, len(value), maxEnvValue)
		case strings.ContainsRune(value, 0):
			return badRequest("env: the value of %s has a NUL byte", name)
		}
		total += len(name) + len(value)
	}
	if total > maxEnvTotal {
		return badRequest("env has %d bytes; the limit is %d", total, maxEnvTotal)
	}
	return nil
}
