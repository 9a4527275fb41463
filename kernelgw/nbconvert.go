package kernelgw

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"kernelgw/auth"
	"kernelgw/contents"
	"kernelgw/kernelgw/kernels"
	"kernelgw/sandboxes/agentapi"
)

// Converter is what the server needs of *kernels.Manager for nbconvert; see there
// for the behaviour of each method.
type Converter interface {
	Exporters(ctx context.Context, workspace string) (map[string]agentapi.Exporter, error)
	Convert(ctx context.Context, r kernels.ConvertRequest, open func(context.Context) (io.ReadCloser, error)) (kernels.Document, error)
}

// convertRoutes are those of nbconvert, which runs in a sandbox of the workspace.
func convertRoutes() []Route {
	return []Route{
		row(http.MethodGet, "api/nbconvert", auth.API, everywhere, "What the image makes of notebooks, by exporter; {} when it has no nbconvert", (*Server).listExporters),
		row(http.MethodGet, "nbconvert/:name/*", auth.Page, everywhere, "A notebook, converted in a sandbox of the workspace: ?download=true, and of html ?sanitize_html=true", (*Server).convertSaved).streaming().sameSite(),
		row(http.MethodPost, "nbconvert/:name", auth.API, everywhere, "As above, of a notebook in the body: {\"name\": NAME, \"content\": NOTEBOOK}", (*Server).convertPosted).streaming(),
	}
}

// listExporters answers in any case: JupyterLab complains of an error, and says
// in its menu when there is nothing.
func (s *Server) listExporters(c *call) error {
	found, err := s.o.Kernels.Exporters(c.Request().Context(), c.workspace)
	if err != nil {
		s.o.Log.Warn("it is not known what the image makes of notebooks", "error", err)
	}
	if found == nil {
		found = map[string]agentapi.Exporter{}
	}
	return c.JSON(http.StatusOK, found)
}

// convertSaved converts a notebook as it was saved last.
func (s *Server) convertSaved(c *call) error {
	s.confine(c)
	if s.o.Files == nil {
		return notFound("This server keeps no files")
	}
	exporter, err := c.exporter()
	if err != nil {
		return err
	}
	at := contents.At{Workspace: c.workspace, Path: c.pathParam("*")}
	e, open, err := s.o.Files.Saved(c.Request().Context(), at)
	if err != nil {
		return err
	}
	switch {
	case e.Directory:
		return c.Redirect(http.StatusFound, c.base+"tree/"+escapedPath(e.Path))
	case !strings.HasSuffix(e.Path, ".ipynb"):
		return c.Redirect(http.StatusFound, c.base+"files/"+escapedPath(e.Path))
	case e.Size > agentapi.MaxNotebookBytes:
		return tooLargeToConvert()
	}
	r := kernels.ConvertRequest{
		Workspace: c.workspace, Owner: c.owner(),
		ConvertRequest: agentapi.ConvertRequest{Exporter: exporter, Path: e.Path, Modified: e.Modified.UTC()},
	}
	query := c.Request().URL.Query()
	if query.Has("sanitize_html") {
		sanitize := strings.EqualFold(query.Get("sanitize_html"), "true")
		r.Sanitize = &sanitize
	}
	made, err := s.o.Kernels.Convert(c.Request().Context(), r, open)
	if err != nil {
		return convertError(err)
	}
	defer made.Content.Close()
	c.Response().Header().Set("Last-Modified", e.Modified.UTC().Format(http.TimeFormat))
	return sendDocument(c, made, strings.EqualFold(query.Get("download"), "true"))
}

// convertPosted converts a notebook in the request's body, which goes to the
// sandbox as it is.
func (s *Server) convertPosted(c *call) error {
	s.confine(c)
	exporter, err := c.exporter()
	if err != nil {
		return err
	}
	if c.Request().ContentLength > agentapi.MaxNotebookBytes {
		return tooLargeToConvert()
	}
	r := kernels.ConvertRequest{
		Workspace: c.workspace, Owner: c.owner(), ConvertRequest: agentapi.ConvertRequest{Exporter: exporter, Posted: true},
	}
	made, err := s.o.Kernels.Convert(c.Request().Context(), r, func(context.Context) (io.ReadCloser, error) {
		return c.Request().Body, nil
	})
	if err != nil {
		return convertError(err)
	}
	defer made.Content.Close()
	return sendDocument(c, made, false)
}

// confine has the answer's scripts run in an origin of nobody, whatever the
// answer is: a notebook brings its own (CVE-2026-44727, CVE-2021-32862).
func (s *Server) confine(c *call) {
	sandbox := "; sandbox allow-scripts"
	if c.who.Method == auth.MethodCapability {
		sandbox = "; sandbox" // a script would read the secret in the page's own address
	}
	c.Response().Header().Set("Content-Security-Policy", s.csp+sandbox)
}

// sendDocument answers with a document. One that breaks off is shorter than the
// length says, and no client takes it for whole.
func sendDocument(c *call, d kernels.Document, download bool) error {
	h := c.Response().Header()
	switch {
	case d.Attachment:
		h.Set("Content-Type", d.Mimetype)
	case d.Mimetype != "":
		h.Set("Content-Type", d.Mimetype+"; charset=utf-8")
	default:
		h.Set("Content-Type", "text/plain; charset=utf-8")
	}
	if download || d.Attachment {
		h.Set("Content-Disposition", "attachment; filename*=utf-8''"+escapedPath(d.Filename))
	}
	h.Set("Cache-Control", "no-store, no-cache, must-revalidate, max-age=0")
	h.Set("Content-Length", strconv.FormatInt(d.Size, 10))
	c.Response().WriteHeader(http.StatusOK)
	_, err := io.Copy(c.Response(), d.Content)
	return err
}

// exporter returns the one in the path.
func (c *call) exporter() (string, error) {
	name := c.pathParam("name")
	if !agentapi.ValidExporter(name) {
		return "", notFound("No exporter for format: " + clip(name))
	}
	return name, nil
}

// escapedPath returns a path for a URL, or a file's name for a header.
func escapedPath(p string) string {
	return strings.NewReplacer("+", "%20", "%2F", "/").Replace(url.QueryEscape(p))
}

func tooLargeToConvert() error {
	return &httpError{
		status:  http.StatusRequestEntityTooLarge,
		message: fmt.Sprintf("The notebook is larger than the %d MiB that can be converted: clear some outputs", agentapi.MaxNotebookBytes>>20),
	}
}

// convertError says of conversions what answer says of kernels.
func convertError(err error) error {
	says := func(status int, sentinel error) error {
		return &httpError{status: status, message: sentence(strings.TrimPrefix(err.Error(), sentinel.Error()+": ")), cause: err}
	}
	switch {
	case errors.Is(err, kernels.ErrNoExporter):
		return says(http.StatusNotFound, kernels.ErrNoExporter)
	case errors.Is(err, kernels.ErrNoConverter):
		return says(http.StatusNotImplemented, kernels.ErrNoConverter)
	case errors.Is(err, kernels.ErrConvert):
		return says(http.StatusUnprocessableEntity, kernels.ErrConvert)
	case errors.Is(err, kernels.ErrTooLarge):
		return tooLargeToConvert()
	case errors.Is(err, kernels.ErrStart), errors.Is(err, kernels.ErrAgent):
		return &httpError{
			status: http.StatusServiceUnavailable, retryAfter: 2, cause: err,
			message: "The notebook could not be converted: the sandbox of the workspace's terminals does not answer; try again",
		}
	}
	return err
}
