package image

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// inputs are the files that say what a built image holds.
type inputs struct {
	packages []string // Debian packages to install
	without  []string // packages to leave out although others need them
	lock     []byte   // pip requirements with hashes
	exclude  []pattern
	hash     string // of all of it
}

// pattern is one line of the exclude file.
type pattern struct {
	glob  string
	depth int // components of glob
	keep  bool
}

func readInputs(fsys fs.FS) (inputs, error) {
	var in inputs
	sum := sha256.New()
	read := func(name string) ([]byte, error) {
		raw, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, fmt.Errorf("cannot read the image's inputs: %w", err)
		}
		fmt.Fprintf(sum, "%s %d\n%s", name, len(raw), raw)
		return raw, nil
	}
	packages, err := read("packages")
	if err != nil {
		return in, err
	}
	for _, line := range dataLines(packages) {
		if left, ok := strings.CutPrefix(line, "-"); ok {
			in.without = append(in.without, left)
		} else {
			in.packages = append(in.packages, line)
		}
	}
	exclude, err := read("exclude")
	if err != nil {
		return in, err
	}
	for _, line := range dataLines(exclude) {
		glob, keep := strings.CutPrefix(line, "!")
		if _, err := path.Match(glob, ""); err != nil {
			return in, fmt.Errorf("cannot read the image's inputs: exclude: %q: %w", line, err)
		}
		in.exclude = append(in.exclude, pattern{glob, strings.Count(glob, "/") + 1, keep})
	}
	if in.lock, err = read("requirements.lock"); err != nil {
		return in, err
	}
	in.hash = hex.EncodeToString(sum.Sum(nil))
	return in, nil
}

// dataLines returns the lines that say something.
func dataLines(raw []byte) []string {
	var lines []string
	for line := range strings.Lines(string(raw)) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// excluded reports whether the clean relative path name is left out: the last
// pattern that matches it, or a directory above it, decides.
func (in *inputs) excluded(name string) bool {
	parts := strings.Split(name, "/")
	out := false
	for _, p := range in.exclude {
		if len(parts) < p.depth {
			continue
		}
		if ok, _ := path.Match(p.glob, strings.Join(parts[:p.depth], "/")); ok { // valid, checked when read
			out = !p.keep
		}
	}
	return out
}
