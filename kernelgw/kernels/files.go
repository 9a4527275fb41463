package kernels

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"kernelgw/sandboxes/agentapi"
)

// Files keeps the files of sandboxes the same as their workspaces.
type Files interface {
	// Serve serves a link that an agent was asked for (agentapi, FilesProtocol),
	// for a workspace, until ctx ends or the link breaks, and closes it. author
	// is told as who wrote what comes over it. All that comes over it is hostile.
	Serve(ctx context.Context, link net.Conn, workspace, author string) error
}

// Pauses between links.
const (
	relinkFirst = 50 * time.Millisecond
	relinkLast  = 5 * time.Second
	linkLived   = 10 * time.Second // a link that lived so long begins the pauses anew
)

// filesConfig is what an agent is told about files.
func (m *Manager) filesConfig() *agentapi.FilesConfig {
	if m.o.Files == nil {
		return nil
	}
	return &m.o.FilesConfig
}

// linkFiles links a sandbox with its workspace until ctx ends, again and again:
// what was changed while there was no link, on either side, is found by the agent
// when there is one.
func (m *Manager) linkFiles(ctx context.Context, k *kernel, agent *agentapi.Client) {
	if m.o.Files == nil {
		return
	}
	author := "a kernel"
	if k.terminals {
		author = "a terminal"
	}
	for pause := relinkFirst; ; pause = min(2*pause, relinkLast) {
		begin := time.Now()
		conn, err := agent.LinkFiles(ctx)
		if isMissing(err) {
			return // made by a gateway that kept no files
		}
		if err == nil {
			err = m.o.Files.Serve(ctx, conn, k.workspace, author)
		}
		if time.Since(begin) > linkLived {
			pause = relinkFirst
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		m.o.Metrics.AgentErrors.WithLabelValues("files").Inc()
		m.o.Log.Debug("lost the link for a sandbox's files; linking again", "kernel", k.id, "error", err)
	}
}

// flushFiles waits until what a sandbox has written is saved, but not for ever:
// its end was asked for.
func (m *Manager) flushFiles(ctx context.Context, k *kernel, agent *agentapi.Client) {
	if m.o.Files == nil {
		return
	}
	_, err := agent.FlushFiles(ctx)
	if err != nil && !isMissing(err) && !errors.Is(err, agentapi.ErrGone) {
		m.o.Metrics.AgentErrors.WithLabelValues("files").Inc()
		m.o.Log.Error("files of a sandbox that ends are not all saved", "kernel", k.id, "workspace", k.workspace, "error", err)
	}
}

// isMissing reports whether an agent does not know what it was asked for.
func isMissing(err error) bool {
	var refused *agentapi.StatusError
	return errors.As(err, &refused) && refused.Code == http.StatusNotFound
}
