package process

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// harmless leaves out what configures the gateway, its tokens among it.
func harmless(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return strings.HasPrefix(name, "KERNELGW_") ||
			strings.HasPrefix(name, "JUPYTERHUB_") ||
			strings.HasPrefix(name, "JPY_") ||
			strings.HasPrefix(name, "JUPYTER_") && (strings.HasSuffix(name, "TOKEN") || strings.HasSuffix(name, "PASSWORD"))
	})
}

// withPythons puts the Pythons to which Jupyter data directories belong first
// in PATH. A kernelspec that a wheel brings says just "python", which means the
// one that it was installed with: PREFIX/bin/python3 for PREFIX/share/jupyter.
func withPythons(env, dataDirs []string) []string {
	var paths []string
	for _, v := range env {
		if value, ok := strings.CutPrefix(v, "PATH="); ok {
			paths = filepath.SplitList(value) // the last one counts
		}
	}
	var first []string
	for _, dir := range dataDirs {
		prefix, ok := strings.CutSuffix(dir, "/share/jupyter")
		bin := filepath.Join(prefix, "bin")
		if _, err := exec.LookPath(filepath.Join(bin, "python3")); !ok || err != nil || slices.Contains(paths, bin) {
			continue
		}
		first = append(first, bin)
	}
	if len(first) == 0 {
		return env
	}
	return append(env, "PATH="+strings.Join(append(first, paths...), string(filepath.ListSeparator)))
}
