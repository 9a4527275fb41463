package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"kernelgw/sandboxes/agent/filesync"
	"kernelgw/sandboxes/agentapi"
)

// lastFlush bounds how long the end of a kernel waits for its files to be saved.
const lastFlush = 10 * time.Second

// fileRoutes are those of an agent whose configuration has files.
var fileRoutes = []route{
	{http.MethodGet, "/v1/files", (*Agent).getFiles},
	{http.MethodGet, "/v1/files/link", (*Agent).getFilesLink},
	{http.MethodPost, "/v1/files/flush", (*Agent).postFilesFlush},
}

// openFiles prepares the sync of the home directory, if there is one.
func (a *Agent) openFiles() error {
	config := a.opts.Config.Files
	if config == nil {
		return nil
	}
	o := filesync.Options{
		Config: *config, Dir: a.opts.Home, Log: a.opts.Log,
		Notice: a.notice,
	}
	if u := a.opts.User; u != nil {
		o.Owner = &filesync.Owner{UID: u.UID, GID: u.GID}
	}
	files, err := filesync.New(o)
	if err != nil {
		return err
	}
	a.files = files
	return nil
}

// maxNotices is how many notices wait to be shown.
const maxNotices = 16

// notice has text shown to the user, unless many are not shown yet.
func (a *Agent) notice(text string) {
	select {
	case a.notices <- text:
	default:
	}
}

// showNotices shows notices in the output of a running cell, the next one if none
// runs: clients drop what belongs to no cell, or to one that has ended.
func (a *Agent) showNotices(ctx context.Context) {
	for {
		var text string
		select {
		case text = <-a.notices:
		case <-ctx.Done():
			return
		}
		for {
			changed := a.news.wait()
			if cell := a.hub.track.runningCell(); cell != nil {
				a.hub.publishError(text, cell)
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

// saveFiles waits until what a kernel that is gone has written is in the store,
// if there is a way to it. Without one there is nothing to wait for: the sandbox
// ends.
func (a *Agent) saveFiles() {
	if a.files == nil || !a.files.Status().Linked {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastFlush)
	defer cancel()
	if err := a.files.Flush(ctx); err != nil {
		a.opts.Log.Error("files of the sandbox are lost", "kernel", a.opts.Config.KernelID, "status", fmt.Sprintf("%+v", a.files.Status()))
	}
}

// awaitFiles waits for the files that the kernel needs at its start, and says
// when it does not have them. A command ends the wait. It reports whether the
// kernel is to run.
func (s *supervisor) awaitFiles(ctx context.Context) bool {
	if s.files == nil {
		s.start()
		return true
	}
	defer s.files.KernelStarted()
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	waited := make(chan error, 1)
	go func() { waited <- s.files.WaitPulled(waiting) }()
	select {
	case err := <-waited:
		if ctx.Err() == nil && err != nil {
			s.opts.Log.Warn("the kernel starts without its files", "kernel", s.opts.Config.KernelID, "error", err.Error())
			s.notice(err.Error())
		}
		s.start()
	case c := <-s.commands:
		stop()
		<-waited
		if c.kind == shutDown {
			s.terminate()
			c.done <- nil
			return false
		}
		c.done <- s.start()
	}
	return true
}

func (a *Agent) getFiles(w http.ResponseWriter, _ *http.Request) { answer(w, a.files.Status()) }

func (a *Agent) postFilesFlush(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), agentapi.FlushPatience)
	defer cancel()
	if err := a.files.Flush(ctx); err != nil {
		st := a.files.Status()
		fail(w, http.StatusGatewayTimeout, fmt.Sprintf("%d files are not saved yet", max(st.Local, 1)))
		return
	}
	answer(w, a.files.Status())
}

func (a *Agent) getFilesLink(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), agentapi.FilesProtocol) {
		w.Header().Set("Upgrade", agentapi.FilesProtocol)
		fail(w, http.StatusUpgradeRequired, "this is for an upgrade to "+agentapi.FilesProtocol)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		fail(w, http.StatusInternalServerError, "the connection cannot be upgraded")
		return
	}
	conn.SetDeadline(time.Time{})
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", agentapi.FilesProtocol); err != nil {
		conn.Close()
		return
	}
	if n := buffered.Reader.Buffered(); n > 0 {
		early, _ := buffered.Reader.Peek(n)
		conn = &earlyConn{conn, io.MultiReader(strings.NewReader(string(early)), conn)}
	}
	// Not of the request: it is over.
	err = a.files.Link(context.WithoutCancel(r.Context()), conn)
	a.opts.Log.Info("a link for files ended", "error", fmt.Sprint(err))
}

// earlyConn is a connection of which some bytes came with the request.
type earlyConn struct {
	net.Conn
	read io.Reader
}

// Read implements net.Conn.
func (c *earlyConn) Read(p []byte) (int, error) { return c.read.Read(p) }
