package kernels

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"kernelgw/sandboxes/agentapi"
)

// Notebooks are converted in the sandbox of the workspace's terminals: what a
// notebook makes nbconvert do, it does where its owner may do it anyway.

// Errors of conversions. The text says what and, where there is one, the remedy.
var (
	ErrNoExporter  = errors.New("no such exporter")
	ErrNoConverter = errors.New("the image cannot convert it")
	ErrConvert     = errors.New("the notebook cannot be converted")
	ErrTooLarge    = errors.New("the notebook is too large to be converted")
)

// ConvertRequest says what is to be made of a notebook.
type ConvertRequest struct {
	agentapi.ConvertRequest

	Workspace string
	Owner     string // as in TerminalRequest
}

// Document is what was made of a notebook. All in it is as hostile as the
// notebook.
type Document struct {
	agentapi.Document

	Content io.ReadCloser // must be closed; Size bytes, or an error
}

// Convert converts a notebook, in the sandbox of the workspace's terminals, which
// is made if there is none. The notebook is opened when there is a sandbox.
func (m *Manager) Convert(ctx context.Context, r ConvertRequest, open func(context.Context) (io.ReadCloser, error)) (Document, error) {
	agent, release, err := m.holdTerminals(ctx, r.Workspace, r.Owner)
	if err != nil {
		return Document{}, err
	}
	notebook, err := open(ctx)
	if err != nil {
		release()
		return Document{}, err
	}
	defer notebook.Close()
	d, content, err := agent.Convert(ctx, r.ConvertRequest, notebook)
	if err != nil {
		release()
		return Document{}, m.convertError(err)
	}
	return Document{d, &heldContent{content, sync.OnceFunc(release)}}, nil
}

// heldContent holds the sandbox that it comes from.
type heldContent struct {
	io.ReadCloser
	release func()
}

// Close implements io.Closer.
func (c *heldContent) Close() error {
	defer c.release()
	return c.ReadCloser.Close()
}

// holdTerminals returns the agent of the sandbox of a workspace's terminals,
// which does not end for want of them until release is called.
func (m *Manager) holdTerminals(ctx context.Context, workspace, owner string) (agent *agentapi.Client, release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, terminalsPatience)
	defer cancel()
	for {
		if err := m.ensureTerminals(ctx, TerminalRequest{Workspace: workspace, Owner: owner}); err != nil {
			return nil, nil, err
		}
		k, agent, err := m.terminals(ctx, workspace)
		if errors.Is(err, ErrTerminalNotFound) {
			return nil, nil, fmt.Errorf("%w: the sandbox of the terminals ended while it started", ErrStart)
		}
		if err != nil {
			return nil, nil, err
		}
		// Its operation, so that it is not taken for unused just now.
		if err := k.acquire(ctx); err != nil {
			return nil, nil, err
		}
		held := m.hold(k)
		k.release()
		if held {
			return agent, func() { m.letGo(k) }, nil
		}
	}
}

// hold keeps a sandbox of terminals from being unused. It reports whether there
// is one still.
func (m *Manager) hold(k *kernel) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k.removed {
		return false
	}
	k.held++
	return true
}

func (m *Manager) letGo(k *kernel) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k.held--
	if !k.emptySince.IsZero() {
		k.emptySince = time.Now()
	}
}

// convertError turns what an agent answered into an error of this package.
func (m *Manager) convertError(err error) error {
	var told *agentapi.StatusError
	if !errors.As(err, &told) {
		m.o.Metrics.AgentErrors.WithLabelValues("request").Inc()
		return fmt.Errorf("%w: cannot convert a notebook: %w", ErrAgent, err)
	}
	message := cmp.Or(printable(told.Message), http.StatusText(told.Code))
	switch told.Code {
	case http.StatusBadRequest:
		return fmt.Errorf("%w: %s", ErrInvalid, message)
	case http.StatusNotFound:
		return fmt.Errorf("%w: %s", ErrNoExporter, message)
	case http.StatusRequestEntityTooLarge:
		return fmt.Errorf("%w: %s", ErrTooLarge, message)
	case http.StatusTooManyRequests:
		return fmt.Errorf("%w: %s in this workspace; try again in a minute", ErrLimit, message)
	case http.StatusNotImplemented:
		return fmt.Errorf("%w: %s", ErrNoConverter, message)
	case http.StatusGone:
		return fmt.Errorf("%w: the sandbox of the terminals is ending", ErrNotReady)
	}
	return fmt.Errorf("%w: %s", ErrConvert, message)
}
