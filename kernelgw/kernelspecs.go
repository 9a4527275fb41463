package kernelgw

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"

	"kernelgw/jupyter/rest"
	"kernelgw/sandboxes"
)

// Kernelspecs come from an image, which may be anybody's. Only logos are
// served, as data: kernel.js would run in our origin, and no client that we
// know loads it any more.
var (
	specName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)
	logoName = regexp.MustCompile(`^logo-[A-Za-z0-9]{1,32}\.(png|svg|gif|jpg|jpeg)$`)
	logoType = map[string]string{
		".png": "image/png", ".svg": "image/svg+xml", ".gif": "image/gif", ".jpg": "image/jpeg", ".jpeg": "image/jpeg",
	}
)

const maxLogoBytes = 1 << 20

func (s *Server) listKernelspecs(c *call) error {
	specs, err := s.o.Kernels.Specs(c.Request().Context(), c.workspace)
	if err != nil {
		return err
	}
	model := rest.Kernelspecs{Default: specs.Default, Kernelspecs: map[string]rest.Kernelspec{}}
	for name, spec := range specs.Specs {
		m, err := specModel(c.base, name, spec)
		if err != nil {
			s.o.Log.Debug("a kernelspec of the image is left out", "kernelspec", name, "error", err)
			continue
		}
		model.Kernelspecs[name] = m
	}
	return c.JSON(http.StatusOK, model)
}

func (s *Server) getKernelspec(c *call) error {
	name, spec, err := s.findSpec(c)
	if err != nil {
		return err
	}
	m, err := specModel(c.base, name, spec)
	if err != nil {
		return fmt.Errorf("cannot describe kernelspec %s: %w", name, err)
	}
	return c.JSON(http.StatusOK, m)
}

func (s *Server) findSpec(c *call) (string, sandboxes.Kernelspec, error) {
	name := c.pathParam("name")
	specs, err := s.o.Kernels.Specs(c.Request().Context(), c.workspace)
	if err != nil {
		return "", sandboxes.Kernelspec{}, err
	}
	spec, ok := specs.Specs[name]
	if !ok {
		return "", sandboxes.Kernelspec{}, notFound("Kernel spec " + clip(name) + " not found")
	}
	return name, spec, nil
}

// specModel describes a kernelspec. Clients drop one without the fields that
// jupyter_server always gives.
func specModel(base, name string, spec sandboxes.Kernelspec) (rest.Kernelspec, error) {
	if !specName.MatchString(name) {
		return rest.Kernelspec{}, errors.New("it has no proper name")
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(spec.JSON, &fields); err != nil {
		return rest.Kernelspec{}, fmt.Errorf("its kernel.json is no JSON object: %w", err)
	}
	for field, value := range map[string]string{
		"env": "{}", "metadata": "{}", "interrupt_mode": `"signal"`, "display_name": `"` + name + `"`, "language": `""`,
	} {
		if v, ok := fields[field]; !ok || string(v) == "null" {
			fields[field] = json.RawMessage(value)
		}
	}
	whole, err := json.Marshal(fields)
	if err != nil {
		return rest.Kernelspec{}, err
	}
	return rest.Kernelspec{Name: name, Spec: whole, Resources: resources(base, name, spec.Files)}, nil
}

// resources lists the logos of a kernelspec by their names without extension.
func resources(base, name string, files fs.FS) map[string]string {
	urls := map[string]string{}
	if files == nil {
		return urls
	}
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return urls
	}
	for _, e := range entries {
		if file := e.Name(); e.Type().IsRegular() && logoName.MatchString(file) {
			key := strings.TrimSuffix(file, path.Ext(file))
			urls[key] = base + "kernelspecs/" + url.PathEscape(name) + "/" + url.PathEscape(file)
		}
	}
	return urls
}

func (s *Server) getKernelspecFile(c *call) error {
	_, spec, err := s.findSpec(c)
	if err != nil {
		return err
	}
	file := c.pathParam("file")
	if !logoName.MatchString(file) || spec.Files == nil {
		return notFound("Not Found")
	}
	content, err := readLogo(spec.Files, file)
	if errors.Is(err, fs.ErrNotExist) {
		return notFound("Not Found")
	}
	if err != nil {
		return fmt.Errorf("cannot read %s of a kernelspec: %w", file, err)
	}
	h := c.Response().Header()
	h.Set("Content-Type", logoType[path.Ext(file)])
	h.Set("Content-Security-Policy", s.csp+"; default-src 'none'; style-src 'unsafe-inline'; sandbox")
	h.Set("Cache-Control", "private, max-age=2592000")
	http.ServeContent(c.Response(), c.Request(), "", time.Time{}, bytes.NewReader(content))
	return nil
}

// readLogo reads a small regular file. It follows no symbolic link: the image
// chose where that leads.
func readLogo(files fs.FS, name string) ([]byte, error) {
	info, err := fs.Lstat(files, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fs.ErrNotExist
	}
	f, err := files.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxLogoBytes+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxLogoBytes {
		return nil, fmt.Errorf("it is larger than %d bytes", maxLogoBytes)
	}
	return content, nil
}
