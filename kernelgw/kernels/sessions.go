package kernels

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/google/uuid"

	"kernelgw/jupyter"
	"kernelgw/kernelgw/registry"
)

// ErrSessionNotFound is answered for a session that does not exist, or is
// another workspace's.
var ErrSessionNotFound = errors.New("session does not exist")

// Session is a snapshot of one session: a document and the kernel that runs it.
type Session struct {
	ID        string
	Workspace string
	Path      string // as the client sent it, byte for byte; no file need exist
	Name      string
	Type      string
	Kernel    Kernel
}

// SessionRequest describes a session to create.
type SessionRequest struct {
	Workspace  string
	Owner      string
	Own        bool // as in StartRequest
	Path       string
	Name       string
	Type       string
	KernelID   string // of a running kernel: attach; unknown: start one of that id
	KernelName string // "" means the default kernelspec
	Env        map[string]string
}

// user is who asks, for UsedBy.
func (r SessionRequest) user() string {
	if !r.Own {
		return "somebody who acts for " + r.Owner
	}
	return r.Owner
}

// SessionUpdate holds what to change; nil and "" mean no change.
type SessionUpdate struct {
	Owner      string
	Own        bool // as in StartRequest
	Path       *string
	Name       *string
	Type       *string
	KernelID   string // must exist; wins over KernelName
	KernelName string // starts a new kernel
}

// sessionRow is what the registry keeps of a session.
type sessionRow struct {
	ID        string    `json:"id"`
	Workspace string    `json:"workspace"`
	Path      string    `json:"path"`
	Name      string    `json:"name"`
	Type      string    `json:"type"`
	KernelID  string    `json:"kernel_id"`
	CreatedAt time.Time `json:"created_at"`
	version   uint64    // of the registry record that holds this
}

func (r *sessionRow) kernel() name { return name{r.Workspace, r.KernelID} }

// loadSessions reads the sessions whose kernels were adopted, and forgets the
// others.
func (m *Manager) loadSessions(ctx context.Context) error {
	records, err := m.o.Store.List(ctx, registry.Sessions)
	if err != nil {
		return fmt.Errorf("cannot read sessions from the registry: %w", err)
	}
	for _, stored := range records {
		var row sessionRow
		if err := json.Unmarshal(stored.Value, &row); err != nil || row.ID != stored.ID {
			return fmt.Errorf("session record %s in the registry is damaged (%v)", stored.ID, err)
		}
		row.version = stored.Version
		m.mu.Lock()
		_, alive := m.kernels[row.kernel()]
		if alive {
			m.sessions[row.ID] = &row
		}
		m.mu.Unlock()
		if !alive {
			if err := m.o.Store.Delete(ctx, registry.Sessions, row.ID); err != nil {
				return fmt.Errorf("cannot forget session %s: %w", row.ID, err)
			}
		}
	}
	return nil
}

// saveSession writes a session to the registry, then to the table.
func (m *Manager) saveSession(ctx context.Context, row sessionRow) error {
	value, err := json.Marshal(row)
	if err != nil {
		return fmt.Errorf("cannot encode session %s: %w", row.ID, err)
	}
	version, err := m.o.Store.Put(ctx, registry.Record{Kind: registry.Sessions, ID: row.ID, Version: row.version, Value: value})
	if err != nil {
		return fmt.Errorf("cannot save session %s: %w", row.ID, err)
	}
	row.version = version
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, alive := m.kernels[row.kernel()]; !alive {
		// Its kernel ended in this very moment; the row must not outlive it.
		delete(m.sessions, row.ID)
		return m.o.Store.Delete(context.WithoutCancel(ctx), registry.Sessions, row.ID)
	}
	m.sessions[row.ID] = &row
	return nil
}

// describe joins a row with its kernel. The caller holds mu.
func (m *Manager) describe(row *sessionRow) (Session, error) {
	k, ok := m.kernels[row.kernel()]
	if !ok {
		return Session{}, fmt.Errorf("%w: %s", ErrSessionNotFound, row.ID)
	}
	return Session{
		ID: row.ID, Workspace: row.Workspace, Path: row.Path, Name: row.Name, Type: row.Type, Kernel: k.snapshot(),
	}, nil
}

// Sessions returns the sessions of a workspace in order of their creation.
func (m *Manager) Sessions(ctx context.Context, workspace string) ([]Session, error) {
	m.refresh(ctx, func(k *kernel) bool { return k.workspace == workspace })
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.ready {
		return nil, fmt.Errorf("%w: the gateway is still adopting kernels", ErrNotReady)
	}
	var rows []*sessionRow
	for _, row := range m.sessions {
		if row.Workspace == workspace {
			rows = append(rows, row)
		}
	}
	slices.SortFunc(rows, func(a, b *sessionRow) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	list := make([]Session, 0, len(rows))
	for _, row := range rows {
		if s, err := m.describe(row); err == nil {
			list = append(list, s)
		}
	}
	return list, nil
}

// Session returns one session of a workspace.
func (m *Manager) Session(_ context.Context, workspace, id string) (Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	row, err := m.findSession(workspace, id)
	if err != nil {
		return Session{}, err
	}
	return m.describe(row)
}

// findSession returns a row of a workspace. The caller holds mu.
func (m *Manager) findSession(workspace, id string) (*sessionRow, error) {
	if !m.ready {
		return nil, fmt.Errorf("%w: the gateway is still adopting kernels", ErrNotReady)
	}
	row, ok := m.sessions[id]
	if !ok || row.Workspace != workspace {
		return nil, fmt.Errorf("%w: %s", ErrSessionNotFound, id)
	}
	return row, nil
}

// maxSessions bounds the sessions of one workspace.
const maxSessions = 2000

// sessionsOf counts a workspace's sessions. The caller holds mu.
func (m *Manager) sessionsOf(workspace string) (n int) {
	for _, row := range m.sessions {
		if row.Workspace == workspace {
			n++
		}
	}
	return n
}

// CreateSession returns the session of a path, making it, and its kernel, when
// there is none. Of several calls for one path at once, one makes it.
func (m *Manager) CreateSession(ctx context.Context, req SessionRequest) (Session, error) {
	reservation := req.Workspace + "\x00" + req.Path
	for {
		m.mu.Lock()
		if !m.ready {
			m.mu.Unlock()
			return Session{}, fmt.Errorf("%w: the gateway is still adopting kernels", ErrNotReady)
		}
		for _, row := range m.sessions {
			if row.Workspace == req.Workspace && row.Path == req.Path {
				s, err := m.describe(row)
				m.mu.Unlock()
				if err == nil && s.Kernel.ExecutionState == jupyter.Dead {
					// Whoever opens the document wants to run it.
					if err = m.UsedBy(ctx, req.Workspace, s.Kernel.ID, req.user()); err != nil {
						return Session{}, err
					}
					s.Kernel, err = m.Restart(ctx, req.Workspace, s.Kernel.ID)
				}
				return s, err
			}
		}
		other, taken := m.pending[reservation]
		if !taken {
			if m.sessionsOf(req.Workspace) >= maxSessions {
				m.mu.Unlock()
				return Session{}, fmt.Errorf("%w: %d sessions in workspace %s; shut some down", ErrLimit, maxSessions, req.Workspace)
			}
			break
		}
		m.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return Session{}, ctx.Err()
		}
	}
	done := make(chan struct{})
	m.pending[reservation] = done
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.pending, reservation)
		m.mu.Unlock()
		close(done)
	}()

	kernelID, started, err := m.sessionKernel(ctx, req)
	if err != nil {
		return Session{}, err
	}
	row := sessionRow{
		ID: uuid.NewString(), Workspace: req.Workspace, Path: req.Path, Name: req.Name, Type: req.Type,
		KernelID: kernelID, CreatedAt: time.Now(),
	}
	if err := m.saveSession(ctx, row); err != nil {
		if started {
			err = errors.Join(err, m.Shutdown(context.WithoutCancel(ctx), req.Workspace, kernelID))
		}
		return Session{}, err
	}
	return m.Session(ctx, req.Workspace, row.ID)
}

// sessionKernel finds or starts the kernel that a request asks for.
func (m *Manager) sessionKernel(ctx context.Context, req SessionRequest) (id string, started bool, err error) {
	if req.KernelID != "" {
		k, err := m.Get(ctx, req.Workspace, req.KernelID)
		if err == nil {
			return k.ID, false, nil
		}
		if !errors.Is(err, ErrNotFound) {
			return "", false, err
		}
	}
	k, err := m.Start(ctx, StartRequest{
		Workspace: req.Workspace, Owner: req.Owner, Own: req.Own, KernelID: req.KernelID, Name: req.KernelName,
		Cwd: path.Dir(req.Path), Env: req.Env, document: req.Path,
	})
	return k.ID, true, err
}

// UpdateSession changes a session. When its kernel changes, the old one is shut
// down unless another session uses it. Updates of one session at once all take
// effect: JupyterLab sends path and name so.
func (m *Manager) UpdateSession(ctx context.Context, workspace, id string, u SessionUpdate) (Session, error) {
	kernelID, started, err := m.updatedKernel(ctx, workspace, id, u)
	if err != nil {
		return Session{}, err
	}
	old, err := m.applyUpdate(ctx, workspace, id, kernelID, u)
	if err != nil {
		if started {
			err = errors.Join(err, m.Shutdown(context.WithoutCancel(ctx), workspace, kernelID))
		}
		return Session{}, err
	}
	if kernelID != "" && kernelID != old && !m.kernelInUse(workspace, old) {
		if err := m.Shutdown(ctx, workspace, old); err != nil && !errors.Is(err, ErrNotFound) {
			m.o.Log.Error("cannot shut down the kernel that a session left", "kernel", old, "error", err)
		}
	}
	return m.Session(ctx, workspace, id)
}

// updatedKernel finds or starts the kernel that an update asks for; "" when it
// asks for none.
func (m *Manager) updatedKernel(ctx context.Context, workspace, session string, u SessionUpdate) (id string, started bool, err error) {
	current, err := m.Session(ctx, workspace, session)
	if err != nil {
		return "", false, err
	}
	switch {
	case u.KernelID != "":
		k, err := m.Get(ctx, workspace, u.KernelID)
		if errors.Is(err, ErrNotFound) {
			return "", false, fmt.Errorf("%w: No such kernel: %s", ErrInvalid, printable(u.KernelID))
		}
		return k.ID, false, err
	case u.KernelName != "":
		document := current.Path
		if u.Path != nil {
			document = *u.Path
		}
		k, err := m.Start(ctx, StartRequest{
			Workspace: workspace, Owner: u.Owner, Own: u.Own, Name: u.KernelName, Cwd: path.Dir(document), document: document,
		})
		return k.ID, true, err
	}
	return "", false, nil
}

// applyUpdate writes an update to the newest version of a session, and returns
// the kernel that the session had before.
func (m *Manager) applyUpdate(ctx context.Context, workspace, id, kernelID string, u SessionUpdate) (old string, err error) {
	for {
		m.mu.Lock()
		found, err := m.findSession(workspace, id)
		if err != nil {
			m.mu.Unlock()
			return "", err
		}
		row := *found
		m.mu.Unlock()

		old = row.KernelID
		row.KernelID = cmp.Or(kernelID, row.KernelID)
		if u.Path != nil {
			row.Path = *u.Path
		}
		if u.Name != nil {
			row.Name = *u.Name
		}
		if u.Type != nil {
			row.Type = *u.Type
		}
		if err := m.saveSession(ctx, row); !errors.Is(err, registry.ErrConflict) {
			return old, err
		}
		// Someone else was first; once they have put their version into the
		// table, it is the one to change.
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

func (m *Manager) kernelInUse(workspace, id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, row := range m.sessions {
		if row.kernel() == (name{workspace, id}) {
			return true
		}
	}
	return false
}

// DeleteSession shuts the session's kernel down and removes the session, and
// with it every other session of that kernel.
func (m *Manager) DeleteSession(ctx context.Context, workspace, id string) error {
	m.mu.Lock()
	row, err := m.findSession(workspace, id)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	if err := m.Shutdown(ctx, workspace, row.KernelID); err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	return nil
}
