package frontend

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
)

// extension is a federated extension: one that Lab loads when it starts, and
// was not built with.
type extension struct {
	dir  string // in Options.Dir
	name string // of its package

	load, extension, style, mimeExtension string // as the page config names them
}

// packageName is what npm allows.
var packageName = regexp.MustCompile(`^(@[a-z0-9~-][a-z0-9._~-]*/)?[a-z0-9~-][a-z0-9._~-]*$`)

// readExtensions finds the extensions below labextensions, sorted.
func readExtensions(dir fs.FS) ([]extension, error) {
	var found []extension
	for _, pattern := range []string{"labextensions/*/package.json", "labextensions/@*/*/package.json"} {
		names, err := fs.Glob(dir, pattern)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			e, err := readExtension(dir, name)
			if err != nil {
				return nil, fmt.Errorf("cannot read the extension in %s: %w", path.Dir(name), err)
			}
			found = append(found, e)
		}
	}
	return found, nil
}

func readExtension(dir fs.FS, name string) (extension, error) {
	var about struct {
		Name       string
		JupyterLab struct {
			Build struct{ Load, Extension, Style, MimeExtension string } `json:"_build"`
		}
	}
	text, err := fs.ReadFile(dir, name)
	if err != nil {
		return extension{}, err
	}
	if err := json.Unmarshal(text, &about); err != nil {
		return extension{}, err
	}
	build := about.JupyterLab.Build
	if !packageName.MatchString(about.Name) || build.Load == "" {
		return extension{}, errors.New("its package.json has no name, or was not written by JupyterLab's builder")
	}
	return extension{
		dir: path.Dir(name), name: about.Name,
		load: build.Load, extension: build.Extension, style: build.Style, mimeExtension: build.MimeExtension,
	}, nil
}

// pageConfig returns the extension as the page config has it: a key is left out
// when it is not set.
func (e extension) pageConfig() map[string]string {
	config := map[string]string{"name": e.name, "load": e.load}
	for key, value := range map[string]string{"extension": e.extension, "style": e.style, "mimeExtension": e.mimeExtension} {
		if value != "" {
			config[key] = value
		}
	}
	return config
}
