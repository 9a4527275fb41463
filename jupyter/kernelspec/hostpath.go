package kernelspec

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// HostPath returns this host's Jupyter data directories, first wins, as
// jupyter_core's jupyter_path() orders them: JUPYTER_PATH, then the user's
// data directory and that of the Python found in PATH (the latter first when it
// is a virtual environment or JUPYTER_PREFER_ENV_PATH says so), then the
// system's. Directories need not exist. getenv is os.Getenv outside tests.
func HostPath(getenv func(string) string) []string {
	var dirs []string
	add := func(dir string) {
		if dir == "" || !filepath.IsAbs(dir) {
			return
		}
		if dir = filepath.Clean(dir); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	for _, dir := range filepath.SplitList(getenv("JUPYTER_PATH")) {
		add(dir)
	}
	user := userDataDir(getenv)
	prefix, venv := pythonPrefix(getenv("PATH"))
	env := ""
	if prefix != "" {
		env = filepath.Join(prefix, "share", "jupyter")
	}
	if preferEnv(getenv("JUPYTER_PREFER_ENV_PATH"), venv) {
		add(env)
		add(user)
	} else {
		add(user)
		// Not when it is a system directory: those come last, in their order.
		if env != "/usr/share/jupyter" && env != "/usr/local/share/jupyter" {
			add(env)
		}
	}
	add("/usr/local/share/jupyter")
	add("/usr/share/jupyter")
	return dirs
}

// FindHost is Find over directories of this host, as HostPath returns them.
func FindHost(dirs []string) (map[string]Spec, []error) {
	return Find(os.DirFS("/"), dirs)
}

func userDataDir(getenv func(string) string) string {
	if dir := getenv("JUPYTER_DATA_DIR"); dir != "" {
		return dir
	}
	if dir := getenv("XDG_DATA_HOME"); dir != "" {
		return filepath.Join(dir, "jupyter")
	}
	if home := getenv("HOME"); home != "" {
		return filepath.Join(home, ".local", "share", "jupyter")
	}
	return ""
}

func preferEnv(value string, venv bool) bool {
	switch strings.ToLower(value) {
	case "":
		return venv
	case "no", "n", "false", "off", "0", "0.0":
		return false
	default:
		return true
	}
}

// pythonPrefix is sys.prefix of the first python3 in PATH, found without
// running it, and whether that is a virtual environment.
func pythonPrefix(pathList string) (prefix string, venv bool) {
	for _, dir := range filepath.SplitList(pathList) {
		if !filepath.IsAbs(dir) {
			continue
		}
		python := filepath.Join(dir, "python3")
		info, err := os.Stat(python)
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			continue
		}
		// Before links are followed: a venv's python3 is a link out of it.
		if _, err := os.Stat(filepath.Join(filepath.Dir(dir), "pyvenv.cfg")); err == nil {
			return filepath.Dir(dir), true
		}
		if real, err := filepath.EvalSymlinks(python); err == nil {
			python = real
		}
		return filepath.Dir(filepath.Dir(python)), false
	}
	return "", false
}
