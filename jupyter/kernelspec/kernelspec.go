// Package kernelspec finds kernelspecs along a Jupyter search path, on this
// host or in the file system of an image. It knows kernel.json and the order of
// the directories, and nothing of how kernels are started. Standard library
// and package jupyter only.
//
// Source: "Making kernels for Jupyter", section "Kernel specs", and the
// behaviour of jupyter_core and jupyter_client where that page is silent.
package kernelspec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"strings"

	"kernelgw/jupyter"
)

// MaxJSONBytes is the size above which a kernel.json is refused. Real ones
// are a few hundred bytes; the files of an image come from strangers.
const MaxJSONBytes = 1 << 20

// maxPerDir bounds the kernels taken from one data directory, so that an
// image cannot make discovery take for ever.
const maxPerDir = 1000

// Spec is one kernelspec as it was found.
type Spec struct {
	Name   string             // as clients name it: the directory's name in lower case
	Dir    string             // absolute slash path of its directory in the file system searched
	JSON   []byte             // kernel.json as it stands, less a byte order mark
	Parsed jupyter.Kernelspec // JSON decoded
	Files  fs.FS              // its directory: logos and the like
}

var validName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)

// ValidName reports whether name may name a kernel: letters, digits, and the
// three marks that jupyter_client allows. "." and ".." are refused.
func ValidName(name string) bool {
	return validName.MatchString(name) && name != "." && name != ".."
}

// Find returns the kernelspecs of the Jupyter data directories dirs (each
// DIR/kernels/NAME/kernel.json) by name. dirs are absolute slash paths whose
// root is that of fsys; where two hold one name the earlier wins. Directories
// that do not exist are passed over. What looks like a kernelspec and is not
// usable is left out and named in the second result, for a log or a user.
//
// Find trusts fsys to keep paths inside: for foreign trees pass one that
// confines symlinks.
func Find(fsys fs.FS, dirs []string) (map[string]Spec, []error) {
	found := make(map[string]Spec)
	var problems []error
	for _, dir := range dirs {
		kernels := path.Join("/", dir, "kernels")
		entries, err := readDir(fsys, rel(kernels))
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				problems = append(problems, fmt.Errorf("cannot list kernelspecs in %s: %w", kernels, err))
			}
			continue
		}
		for _, e := range entries {
			specDir := path.Join(kernels, e.Name())
			spec, err := Read(fsys, specDir)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNotDir) {
				continue
			}
			if err != nil {
				problems = append(problems, err)
				continue
			}
			if _, taken := found[spec.Name]; !taken {
				found[spec.Name] = spec
			}
		}
	}
	return found, problems
}

var errNotDir = errors.New("not a directory")

// Read returns the kernelspec whose directory is dir, an absolute slash path
// in fsys. The error wraps fs.ErrNotExist when dir holds no kernel.json.
func Read(fsys fs.FS, dir string) (Spec, error) {
	info, err := fs.Stat(fsys, rel(dir))
	if err != nil {
		return Spec{}, fmt.Errorf("cannot read kernelspec %s: %w", dir, err)
	}
	if !info.IsDir() {
		return Spec{}, fmt.Errorf("cannot read kernelspec %s: %w", dir, errNotDir)
	}
	raw, err := readCapped(fsys, rel(path.Join(dir, "kernel.json")))
	if err != nil {
		return Spec{}, fmt.Errorf("cannot read kernelspec %s: %w", dir, err)
	}
	name := path.Base(dir)
	if !ValidName(name) {
		return Spec{}, fmt.Errorf("cannot use kernelspec %s: its name has other characters than letters, digits, '.', '_' and '-'", dir)
	}
	raw = bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf"))
	parsed, err := Parse(raw)
	if err != nil {
		return Spec{}, fmt.Errorf("cannot use kernelspec %s: %w", dir, err)
	}
	files, err := fs.Sub(fsys, rel(dir))
	if err != nil {
		return Spec{}, fmt.Errorf("cannot read kernelspec %s: %w", dir, err)
	}
	return Spec{Name: strings.ToLower(name), Dir: dir, JSON: raw, Parsed: parsed, Files: files}, nil
}

// Parse decodes a kernel.json. It is lenient as jupyter_client is: fields it
// does not know are passed over, null means absent, display_name and language
// may be missing. It is an error when raw is not one JSON object, when argv is
// not a list of strings with at least one, or when a known field has a type
// that cannot be used.
func Parse(raw []byte) (jupyter.Kernelspec, error) {
	var spec jupyter.Kernelspec
	if !json.Valid(raw) || len(bytes.TrimSpace(raw)) == 0 || bytes.TrimSpace(raw)[0] != '{' {
		return spec, errors.New("kernel.json is not a JSON object")
	}
	if err := json.Unmarshal(raw, &spec); err != nil {
		return jupyter.Kernelspec{}, fmt.Errorf("kernel.json: %w", err)
	}
	if len(spec.Argv) == 0 || spec.Argv[0] == "" {
		return jupyter.Kernelspec{}, errors.New("kernel.json has no argv, so there is nothing to start")
	}
	switch spec.InterruptMode {
	case "", "signal", "message":
	default:
		return jupyter.Kernelspec{}, fmt.Errorf("kernel.json has interrupt_mode %q; it must be \"signal\" or \"message\"", spec.InterruptMode)
	}
	return spec, nil
}

// rel turns an absolute slash path into the form that fs.FS takes.
func rel(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		return "."
	}
	return p
}

func readDir(fsys fs.FS, name string) ([]fs.DirEntry, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	dir, ok := f.(fs.ReadDirFile)
	if !ok {
		return nil, errNotDir
	}
	entries, err := dir.ReadDir(maxPerDir)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return entries, err
}

func readCapped(fsys fs.FS, name string) ([]byte, error) {
	// Stat before Open: opening a FIFO that an image planted would block.
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("kernel.json is not a regular file")
	}
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, MaxJSONBytes+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > MaxJSONBytes {
		return nil, fmt.Errorf("kernel.json is larger than %d bytes", MaxJSONBytes)
	}
	return raw, nil
}
