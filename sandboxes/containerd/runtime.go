package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
)

// runtime is what containerd is asked to run sandboxes with.
type runtime struct {
	name    string // as containerd takes it: a type, or the absolute path of a shim
	options any    // of the shim; nil for none
	kata    bool
	version string // of Kata; "" for others
	config  string // path of the shim's configuration; "" when the shim chooses
}

// kataRoot is where kata-deploy and the release archive put Kata.
const kataRoot = "/opt/kata"

// rustHandlers are the Kata handlers of runtime-rs that do not say so.
var rustHandlers = []string{"dragonball"}

// leastKata is the first version of Kata that keeps an attacker's mounts out of
// the guest (GHSA-fmg6-v47x-52wr).
var leastKata = [3]int{4, 1, 0}

// findRuntime turns Options.Runtime into what containerd takes, and asks a Kata
// shim for its version: the shim is what will run, while a kata-runtime binary
// beside it may be of another installation.
func findRuntime(ctx context.Context, configured, config string) (runtime, error) {
	var r runtime
	shim := ""
	switch handler, named := strings.CutPrefix(configured, "kata"); {
	case configured == "" || configured == "runc":
		r.name = "io.containerd.runc.v2"
	case filepath.IsAbs(configured):
		shim, r.kata = configured, isKata(configured)
		r.name = configured
	case strings.HasPrefix(configured, "io.containerd."):
		r.name = configured
		if r.kata = isKata(configured); r.kata {
			shim = shimOfType(configured)
		}
	case named && (handler == "" || handler[0] == '-'):
		r.kata = true
		var err error
		if shim, err = kataShim(strings.TrimPrefix(handler, "-")); err != nil {
			return r, err
		}
		r.name = shim
		if config == "" {
			config = kataConfig(strings.TrimPrefix(handler, "-"))
		}
	default:
		return r, fmt.Errorf("cannot use runtime %q: it is neither runc, nor a Kata handler, nor the path of a shim", configured)
	}
	if config != "" {
		if _, err := os.Stat(config); err != nil {
			return r, fmt.Errorf("cannot use the configuration of runtime %q: %w", configured, err)
		}
		r.config, r.options = config, &runtimeoptions.Options{ConfigPath: config}
	}
	if !r.kata {
		if r.config != "" && shim == "" {
			return r, errors.New("cannot give a configuration file to runc: it has none")
		}
		return r, nil
	}
	version, err := kataVersion(ctx, shim)
	if err != nil {
		return r, fmt.Errorf("cannot use runtime %q: %w", configured, err)
	}
	r.version = version
	return r, nil
}

// isKata reports whether a runtime, as containerd takes it, is one of Kata's.
func isKata(name string) bool { return strings.Contains(filepath.Base(name), "kata") }

// kataShim returns the shim of a handler: kata-deploy's, else one on PATH.
func kataShim(handler string) (string, error) {
	paths := []string{filepath.Join(kataRoot, "bin/containerd-shim-kata-v2")}
	if isRust(handler) {
		paths[0] = filepath.Join(kataRoot, "runtime-rs/bin/containerd-shim-kata-v2")
	}
	if handler != "" {
		paths = append(paths, "containerd-shim-kata-"+handler+"-v2")
	}
	paths = append(paths, "containerd-shim-kata-v2")
	for _, p := range paths {
		if found, err := exec.LookPath(p); err == nil {
			return filepath.Abs(found)
		}
	}
	return "", fmt.Errorf("cannot find the shim of Kata handler %q: none of %s is there; install Kata by kata-deploy or its release archive, or configure the shim's path",
		"kata-"+handler, strings.Join(paths, ", "))
}

func isRust(handler string) bool {
	return handler == "" || strings.Contains(handler, "runtime-rs") || slices.Contains(rustHandlers, handler)
}

// kataConfig returns the configuration of a handler, "" when there is none.
func kataConfig(handler string) string {
	dir := filepath.Join(kataRoot, "share/defaults/kata-containers")
	if isRust(handler) {
		dir = filepath.Join(dir, "runtime-rs")
	}
	name := "configuration-" + handler + ".toml"
	if handler == "" {
		name = "configuration.toml"
	}
	// The first is what kata-deploy adapted to the host.
	for _, path := range []string{filepath.Join(dir, "runtimes", handler, name), filepath.Join(dir, name)} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// shimOfType returns the program that containerd runs for a runtime type such as
// "io.containerd.kata.v2".
func shimOfType(name string) string {
	parts := strings.Split(name, ".")
	if len(parts) < 2 {
		return name
	}
	return "containerd-shim-" + parts[len(parts)-2] + "-" + parts[len(parts)-1]
}

// kataVersion asks a shim for its version and refuses what is too old.
func kataVersion(ctx context.Context, shim string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, shim, "--version")
	cmd.Env = []string{"PATH=" + safePath}
	cmd.WaitDelay = time.Second
	output, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("cannot ask %s for its version: %w: %s", shim, err, sentence(string(output)))
	}
	version, number, ok := parseKataVersion(string(output))
	if !ok {
		return "", fmt.Errorf("cannot find a version in what %s --version says: %q", shim, sentence(string(output)))
	}
	if slices.Compare(number[:], leastKata[:]) < 0 {
		return "", fmt.Errorf("version %s of Kata Containers is too old: 4.1.0 is the first without GHSA-fmg6-v47x-52wr, by which code inside could mount what it liked", version)
	}
	return version, nil
}

// Both shims say "... shim (Rust): id: ..., version: 4.1.0, commit: ...".
var kataVersionText = regexp.MustCompile(`version:\s*"?v?((\d{1,6})\.(\d{1,6})\.(\d{1,6})[0-9A-Za-z.+-]*)`)

// parseKataVersion finds the version in what a shim says of itself. A version
// before a release is that release's.
func parseKataVersion(output string) (version string, number [3]int, ok bool) {
	match := kataVersionText.FindStringSubmatch(output)
	if match == nil {
		return "", number, false
	}
	for i := range number {
		number[i], _ = strconv.Atoi(match[2+i]) // digits, few enough
	}
	return match[1], number, true
}
