package kernelgw

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"

	"kernelgw/auth"
	"kernelgw/jupyter/rest"
	"kernelgw/kernelgw/kernels"
	"kernelgw/kernelgw/outputlog"
)

// logRoutes are those of all that a session's kernels have printed. An id is a
// session's or a kernel's, also of one that has ended: the log is its workspace's, and
// whoever may enter that may read it, for as long as it is kept.
func logRoutes() []Route {
	get := func(path, doc string, handle func(*Server, context.Context, *call) error) Route {
		return row(http.MethodGet, path, auth.API, everywhere, doc, readingLog(handle)).streaming()
	}
	return []Route{
		get("v1/sessions/:id/logs", "What the session has printed, in parts; also of one that has ended", (*Server).listLogs),
		get("v1/sessions/:id/logs/text", "All of it, as text; where some is missing, a line says so", (*Server).getLogText),
		get("v1/sessions/:id/logs/:part", "One part: a gzip file of text", (*Server).getLogPart),
	}
}

// readingLog gives a request for a log a place among its user's streams, as it may last
// as long as one, and a context that ends when the server drains, too.
func readingLog(handle func(*Server, context.Context, *call) error) func(*Server, *call) error {
	return func(s *Server, c *call) error {
		if s.o.OutputLogs == nil {
			return errNoLogs
		}
		place, err := s.sockets.enter(c.owner())
		if err != nil {
			return err
		}
		defer s.sockets.leave(place)
		ctx, cancel := context.WithCancel(c.Request().Context())
		defer cancel()
		defer context.AfterFunc(place.ctx, cancel)()
		if err = handle(s, ctx, c); err != nil {
			return s.unlessDraining(place, err)
		}
		return nil
	}
}

// logModel is what a session has printed.
type logModel struct {
	Parts   []logPartModel `json:"parts"`   // in the order in which it was printed
	Bytes   int64          `json:"bytes"`   // of text in them
	Missing int64          `json:"missing"` // of text that is in none
	// Current is false when what was printed last could not be fetched.
	Current bool `json:"current"`
}

type logPartModel struct {
	Name    string    `json:"name"`
	Kernel  string    `json:"kernel"`
	Begun   rest.Time `json:"begun"`             // when the first of it was printed
	From    int64     `json:"from"`              // bytes of text before it, since its sandbox began
	Bytes   int64     `json:"bytes"`             // of text
	Size    int64     `json:"size"`              // of the file
	Missing int64     `json:"missing,omitempty"` // bytes of text that are missing before it
}

// logParts returns the parts that are kept of the log that a request is for.
func (s *Server) logParts(ctx context.Context, c *call) (parts []outputlog.Part, err error) {
	asked, err := c.sessionID()
	if err != nil {
		return nil, err
	}
	kernel, err := s.runtimeID(c)
	if err != nil {
		return nil, err
	}
	parts, err = s.o.OutputLogs.Parts(ctx, c.workspace, asked, kernel)
	if err != nil {
		return nil, s.noLog(err)
	}
	return parts, nil
}

// wholeLog has what was printed until now kept, and returns the parts of the log that a
// request is for. current is false where that failed.
func (s *Server) wholeLog(ctx context.Context, c *call) (parts []outputlog.Part, current bool, err error) {
	kernel, err := s.runtimeID(c)
	if err != nil {
		return nil, false, err
	}
	stored := s.o.Kernels.StoreOutput(ctx, c.workspace, kernel)
	gone := errors.Is(stored, kernels.ErrNotFound)
	if stored != nil && !gone && !errors.Is(stored, kernels.ErrAgent) {
		return nil, false, stored
	}
	if stored != nil && !gone {
		s.o.Log.Warn("an output log lacks what was printed last", "kernel", kernel, "workspace", c.workspace, "error", stored)
	}
	if parts, err = s.logParts(ctx, c); err != nil {
		return nil, false, err
	}
	if gone && len(parts) == 0 {
		return nil, false, stored
	}
	return parts, stored == nil || gone, nil
}

func (s *Server) listLogs(ctx context.Context, c *call) error {
	parts, current, err := s.wholeLog(ctx, c)
	if err != nil {
		return err
	}
	m := logModel{Parts: make([]logPartModel, len(parts)), Current: current}
	var before *outputlog.Part
	for i, p := range parts {
		missing := outputlog.Missing(before, p)
		before = &parts[i]
		m.Parts[i] = logPartModel{Name: p.Name(), Kernel: p.Log, Begun: rest.Time{Time: p.Begun}, From: p.From, Bytes: p.Bytes, Size: p.Size, Missing: missing}
		m.Bytes += p.Bytes
		m.Missing += missing
	}
	return c.JSON(http.StatusOK, m)
}

func (s *Server) getLogText(ctx context.Context, c *call) error {
	parts, current, err := s.wholeLog(ctx, c)
	if err != nil {
		return err
	}
	c.Response().Header().Set("Content-Type", "text/plain; charset=utf-8")
	c.Response().WriteHeader(http.StatusOK)
	err = s.o.OutputLogs.WriteText(ctx, c.Response(), c.workspace, parts)
	if err == nil && !current {
		_, err = io.WriteString(c.Response(), "\n[what was printed last cannot be read now]\n")
	}
	return s.sentWhole(err)
}

func (s *Server) getLogPart(ctx context.Context, c *call) error {
	parts, err := s.logParts(ctx, c)
	if err != nil {
		return err
	}
	name := c.pathParam("part")
	i := slices.IndexFunc(parts, func(p outputlog.Part) bool { return p.Name() == name })
	if i < 0 {
		return errNoPart
	}
	content, err := s.o.OutputLogs.Open(ctx, c.workspace, parts[i])
	if errors.Is(err, outputlog.ErrNotFound) {
		return errNoPart
	}
	if err != nil {
		return s.noLog(err)
	}
	defer content.Close()
	h := c.Response().Header()
	h.Set("Content-Type", "application/gzip")
	h.Set("Content-Length", strconv.FormatInt(parts[i].Size, 10))
	h.Set("Content-Disposition", `attachment; filename="`+parts[i].Name()+`.txt.gz"`)
	c.Response().WriteHeader(http.StatusOK)
	_, err = io.CopyN(c.Response(), content, parts[i].Size)
	return s.sentWhole(err)
}

// noLog is what a storage that fails is answered with.
func (s *Server) noLog(err error) error {
	if !ranOut(err) {
		s.o.Log.Error("cannot read an output log", "error", err)
	}
	return &httpError{status: http.StatusServiceUnavailable, message: "The output log cannot be read now; try again", retryAfter: 2, cause: err}
}

var errNoLogs = notFound("This server keeps no output logs")

var errNoPart = notFound("There is no such part, or it is not kept any more")

// sentWhole ends an answer that has begun: one that broke off must not be taken for the
// whole.
func (s *Server) sentWhole(err error) error {
	if err != nil {
		s.o.Log.Debug("a log broke off", "error", err)
		panic(http.ErrAbortHandler)
	}
	return nil
}
