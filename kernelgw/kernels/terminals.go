package kernels

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"kernelgw/jupyter"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
)

// All terminals of a workspace share one sandbox. It is kept in the table of
// kernels, because it begins, is adopted and ends as a kernel's, under an id
// that no kernel can have, and is shown to nobody as a kernel.

// terminalsID is the id of the sandbox of a workspace's terminals, probeID that of
// one that only answers a question about its image.
const (
	terminalsID = "terminals"
	probeID     = "probe"
)

func (r record) isTerminals() bool { return r.ID == terminalsID }

// ErrTerminalNotFound is an error that callers test for.
var ErrTerminalNotFound = errors.New("terminal does not exist")

// Terminal is a snapshot of one terminal.
type Terminal struct {
	Name         string
	LastActivity time.Time
}

// TerminalRequest describes a terminal to start.
type TerminalRequest struct {
	Workspace string
	Owner     string // issuer and subject of the user, for labels and logs
	Name      string // "" means the lowest free number
	Cwd       string // directory to start in, relative to the workspace
}

const (
	// terminalsPatience bounds how long a request waits for the sandbox of the
	// terminals to answer.
	terminalsPatience = 90 * time.Second
	listPatience      = 10 * time.Second // clients ask every 10 s
	// maxTerminalsTold bounds what is believed of an agent.
	maxTerminalsTold = 1000
)

// Terminals lists the terminals of a workspace in order of their start. It
// starts no sandbox.
func (m *Manager) Terminals(ctx context.Context, workspace string) ([]Terminal, error) {
	ctx, cancel := context.WithTimeout(ctx, listPatience)
	defer cancel()
	_, agent, err := m.terminals(ctx, workspace)
	if errors.Is(err, ErrTerminalNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	told, err := agent.Terminals(ctx)
	if err != nil {
		return nil, m.terminalError(err, "cannot list terminals")
	}
	seen := map[string]bool{}
	list := make([]Terminal, 0, len(told))
	for _, t := range told {
		if agentapi.ValidTerminalName(t.Name) && !seen[t.Name] && len(list) < maxTerminalsTold {
			seen[t.Name] = true
			list = append(list, trustedTerminal(t))
		}
	}
	return list, nil
}

// StartTerminal starts a terminal, and the sandbox for it when it is the first
// of its workspace. When a terminal has the name already, that is the answer.
func (m *Manager) StartTerminal(ctx context.Context, r TerminalRequest) (Terminal, error) {
	if r.Name != "" && !agentapi.ValidTerminalName(r.Name) {
		return Terminal{}, fmt.Errorf("%w: a terminal's name has letters, digits and underscores, at most 64", ErrInvalid)
	}
	ctx, cancel := context.WithTimeout(ctx, terminalsPatience)
	defer cancel()
	for {
		if err := m.ensureTerminals(ctx, r); err != nil {
			return Terminal{}, err
		}
		k, agent, err := m.terminals(ctx, r.Workspace)
		if errors.Is(err, ErrTerminalNotFound) {
			return Terminal{}, fmt.Errorf("%w: the sandbox of the terminals ended while it started", ErrStart)
		}
		if err != nil {
			return Terminal{}, err
		}
		// Held, so that the sandbox is not taken for unused meanwhile.
		if err := k.acquire(ctx); err != nil {
			return Terminal{}, err
		}
		m.mu.Lock()
		removed := k.removed
		m.mu.Unlock()
		if removed {
			k.release()
			continue
		}
		t, err := agent.StartTerminal(ctx, agentapi.TerminalRequest{Name: r.Name, Cwd: r.Cwd})
		k.release()
		switch {
		case err != nil:
			return Terminal{}, m.terminalError(err, "cannot start a terminal")
		case !agentapi.ValidTerminalName(t.Name), r.Name != "" && t.Name != r.Name:
			return Terminal{}, fmt.Errorf("%w: it started a terminal of another name", ErrAgent)
		}
		return trustedTerminal(t), nil
	}
}

// Terminal returns one terminal of a workspace.
func (m *Manager) Terminal(ctx context.Context, workspace, name string) (Terminal, error) {
	_, t, err := m.terminal(ctx, workspace, name)
	return t, err
}

// DeleteTerminal ends a terminal and returns when its processes are gone.
func (m *Manager) DeleteTerminal(ctx context.Context, workspace, name string) error {
	if !agentapi.ValidTerminalName(name) {
		return fmt.Errorf("%w: %s", ErrTerminalNotFound, printable(name))
	}
	k, agent, err := m.terminals(ctx, workspace)
	if err != nil {
		return err
	}
	if err := agent.DeleteTerminal(ctx, name); err != nil {
		return m.terminalError(err, "cannot end terminal "+name)
	}
	if st, err := agent.Status(ctx); err == nil { // otherwise the next status tells
		m.observe(k, st)
	}
	return nil
}

// ConnectTerminal finds the agent for a client's WebSocket to a terminal, which
// is at agentapi.TerminalSocket.
func (m *Manager) ConnectTerminal(ctx context.Context, workspace, name string) (Connection, error) {
	k, _, err := m.terminal(ctx, workspace, name)
	if err != nil {
		return Connection{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if k.removed || k.agent == nil {
		return Connection{}, fmt.Errorf("%w: %s", ErrTerminalNotFound, name)
	}
	return m.connection(k), nil
}

// terminal finds a terminal, and the row of its sandbox.
func (m *Manager) terminal(ctx context.Context, workspace, name string) (*kernel, Terminal, error) {
	if !agentapi.ValidTerminalName(name) {
		return nil, Terminal{}, fmt.Errorf("%w: %s", ErrTerminalNotFound, printable(name))
	}
	k, agent, err := m.terminals(ctx, workspace)
	if err != nil {
		return nil, Terminal{}, err
	}
	t, err := agent.Terminal(ctx, name)
	if err != nil {
		return nil, Terminal{}, m.terminalError(err, "cannot find terminal "+name)
	}
	t.Name = name
	return k, trustedTerminal(t), nil
}

// terminals finds the sandbox of a workspace's terminals and its agent, once
// that listens. ErrTerminalNotFound when there is no such sandbox.
func (m *Manager) terminals(ctx context.Context, workspace string) (*kernel, *agentapi.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, terminalsPatience)
	defer cancel()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.ready {
		return nil, nil, fmt.Errorf("%w: the gateway is still adopting kernels", ErrNotReady)
	}
	k := m.kernels[name{workspace, terminalsID}]
	for {
		switch {
		case k == nil || k.dead():
			return nil, nil, fmt.Errorf("%w: the workspace has none", ErrTerminalNotFound)
		case k.agent != nil:
			return k, k.agent, nil
		}
		if m.waitChange(ctx, k) != nil {
			return nil, nil, fmt.Errorf("%w: the sandbox of the terminals is still starting", ErrNotReady)
		}
	}
}

// ensureTerminals makes the sandbox of a workspace's terminals unless there is
// one. It returns when the sandbox exists; its agent may not listen yet.
func (m *Manager) ensureTerminals(ctx context.Context, r TerminalRequest) error {
	policy, err := m.policy(ctx, r.Workspace)
	if err != nil {
		return err
	}
	row := record{
		ID: terminalsID, Driver: m.o.Driver.Name(), Workspace: r.Workspace, Owner: r.Owner,
		CreatedAt: time.Now(), key: r.Workspace + "/" + terminalsID,
	}
	m.mu.Lock()
	if !m.ready || m.closed {
		m.mu.Unlock()
		return fmt.Errorf("%w: the gateway is starting or stopping", ErrNotReady)
	}
	if k := m.kernels[row.name()]; k != nil {
		dead := k.dead()
		m.mu.Unlock()
		if !dead {
			return nil
		}
		if err := m.shutdown(ctx, k); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		return m.ensureTerminals(ctx, r)
	}
	k := newKernel(row)
	k.op <- struct{}{}
	m.kernels[row.name()] = k
	m.mu.Unlock()

	created, err := m.provision(ctx, k, policy, sandboxes.Kernelspec{})
	if err != nil {
		m.remove(ctx, k)
		k.release()
		return err
	}
	k.release()
	select {
	case err := <-created: // its keeper removes what failed
		if err != nil {
			return fmt.Errorf("%w: terminals: %w", ErrStart, err)
		}
		return nil
	case <-ctx.Done(): // others may wait for it; unused, it ends by itself
		return fmt.Errorf("%w: the sandbox of the terminals is still starting", ErrNotReady)
	}
}

// terminalError turns what an agent answered into an error of this package.
func (m *Manager) terminalError(err error, what string) error {
	var told *agentapi.StatusError
	if errors.As(err, &told) {
		switch told.Code {
		case http.StatusNotFound:
			return fmt.Errorf("%w: %s", ErrTerminalNotFound, what)
		case http.StatusTooManyRequests:
			most := cmp.Or(m.o.MaxTerminals, agentapi.DefaultMaxTerminals)
			return fmt.Errorf("%w: %d terminals in the workspace; end some", ErrLimit, most)
		case http.StatusBadRequest:
			return fmt.Errorf("%w: %s: %s", ErrInvalid, what, printable(told.Message))
		case http.StatusGone:
			return fmt.Errorf("%w: the sandbox of the terminals is ending", ErrNotReady)
		}
	}
	m.o.Metrics.AgentErrors.WithLabelValues("request").Inc()
	return fmt.Errorf("%w: %s: %w", ErrAgent, what, err)
}

// trustedTerminal returns t with everything in range.
func trustedTerminal(t agentapi.Terminal) Terminal {
	now := time.Now()
	if t.LastActivity.After(now) || t.LastActivity.IsZero() {
		t.LastActivity = now
	}
	return Terminal{Name: t.Name, LastActivity: t.LastActivity}
}

// endUnusedTerminals ends the sandboxes that have had no terminal for
// TerminalLinger, in the background.
func (m *Manager) endUnusedTerminals() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.kernels {
		if k.terminals && k.unused(m.o.TerminalLinger) && !m.closed {
			m.wg.Go(func() { m.endUnused(k, m.o.TerminalLinger) })
		}
	}
}

// endEmptyTerminals ends the sandboxes that have no terminal now: the next
// gateway has no use for them.
func (m *Manager) endEmptyTerminals() {
	var ending sync.WaitGroup
	m.mu.Lock()
	for _, k := range m.kernels {
		if k.terminals && k.unused(0) {
			ending.Go(func() { m.endUnused(k, 0) })
		}
	}
	m.mu.Unlock()
	ending.Wait()
}

// unused reports whether a sandbox of terminals has had none for so long. The
// caller holds mu.
func (k *kernel) unused(linger time.Duration) bool {
	return k.dead() || k.agent != nil && k.held == 0 && !k.emptySince.IsZero() && time.Since(k.emptySince) > linger
}

func (m *Manager) endUnused(k *kernel, linger time.Duration) {
	ctx, cancel := context.WithTimeout(m.ctx, time.Second)
	defer cancel()
	if k.acquire(ctx) != nil {
		return // it is being used after all
	}
	defer k.release()
	m.mu.Lock()
	agent, unused := k.agent, k.unused(linger)
	m.mu.Unlock()
	if !unused {
		return
	}
	// What was told last may be older than the last start of a terminal.
	if agent != nil {
		if st, err := agent.Status(ctx); err == nil && st.Terminals > 0 && st.ExecutionState != jupyter.Dead {
			m.observe(k, st)
			return
		}
	}
	m.o.Log.Info("ending the sandbox of terminals: there are none", "workspace", k.workspace, "sandbox", k.record.Sandbox)
	if err := m.end(m.ctx, k); err != nil && !errors.Is(err, ErrNotFound) {
		m.o.Log.Error("cannot end the sandbox of terminals", "workspace", k.workspace, "error", err)
	}
}

// sandboxID returns an id for a new sandbox.
func (r record) sandboxID() string {
	kind := "k-"
	switch r.ID {
	case terminalsID:
		kind = "t-"
	case probeID:
		kind = "p-"
	}
	return kind + strings.ReplaceAll(uuid.NewString(), "-", "")
}
