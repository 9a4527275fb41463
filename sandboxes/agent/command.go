package agent

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var placeholder = regexp.MustCompile(`\{[A-Za-z0-9_]+\}`)

// kernelArgv is the argv of a kernelspec with its placeholders replaced
// ("Making kernels for Jupyter", section "Kernel specs"). Placeholders that
// nobody defined stay, as in jupyter_client.
func kernelArgv(argv []string, connectionFile, resourceDir string) []string {
	out := make([]string, len(argv))
	for i, arg := range argv {
		out[i] = placeholder.ReplaceAllStringFunc(arg, func(name string) string {
			switch name {
			case "{connection_file}":
				return connectionFile
			case "{resource_dir}":
				return resourceDir
			}
			return name
		})
	}
	return out
}

var variable = regexp.MustCompile(`\$\{[A-Za-z_][A-Za-z0-9_]*\}|\$[A-Za-z_][A-Za-z0-9_]*`)

// kernelEnv is the environment of a kernel: that of the agent, which a driver
// keeps free of secrets, then the kernelspec's, whose values may refer to what
// was set before them, then the client's, which is data and is expanded in no
// way.
func kernelEnv(agentEnv []string, spec, client map[string]string, o *Options) []string {
	env := make(map[string]string)
	for _, entry := range agentEnv {
		if name, value, ok := strings.Cut(entry, "="); ok && name != "" {
			env[name] = value
		}
	}
	setDefault := func(name, value string) {
		if env[name] == "" {
			env[name] = value
		}
	}
	setDefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	setDefault("LANG", "C.UTF-8")
	if o.User != nil {
		// The agent's own are those of another user.
		env["HOME"] = o.Home
		env["USER"], env["LOGNAME"] = userName(o.User.UID), userName(o.User.UID)
		setDefault("SHELL", "/bin/sh")
	}
	setDefault("HOME", o.Home)
	before := make(map[string]string, len(env))
	for name, value := range env {
		before[name] = value
	}
	for name, value := range spec {
		env[name] = variable.ReplaceAllStringFunc(value, func(ref string) string {
			if known, ok := before[strings.Trim(ref, "${}")]; ok {
				return known
			}
			return ref
		})
	}
	for name, value := range client {
		env[name] = value
	}
	// A marker by which a driver finds the processes of a kernel whose agent is
	// gone.
	env["KERNELGW_KERNEL_ID"] = o.Config.KernelID
	// ipykernel ends itself when this process is not its parent.
	delete(env, "JPY_PARENT_PID")

	out := make([]string, 0, len(env))
	for name, value := range env {
		// execve cannot carry these, and would cut them short or fail.
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			continue
		}
		out = append(out, name+"="+value)
	}
	slices.Sort(out)
	return out
}

// kernelDir is the directory to start a kernel in: cwd, or the nearest
// directory above it that exists. A relative cwd is below home and stays there.
func kernelDir(home, cwd string) string {
	dir := home
	if cwd != "" {
		dir = filepath.Clean(cwd)
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(home, filepath.Clean("/"+dir))
		}
	}
	for {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "/"
		}
		dir = parent
	}
}
