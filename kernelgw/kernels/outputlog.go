package kernels

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"kernelgw/kernelgw/outputlog"
	"kernelgw/sandboxes/agentapi"
)

// OutputLogs keep all that kernels print.
type OutputLogs interface {
	// Put keeps a part, and that the sessions have its log. One that is kept already is
	// no error. An error means that it may work later.
	Put(ctx context.Context, workspace string, p outputlog.Part, content []byte, sessions []string) error
}

const (
	// storePatience bounds one attempt to store a part that has come, and
	// lastStorePatience one when its kernel ends.
	storePatience     = time.Minute
	lastStorePatience = 5 * time.Second
	// sealPatience is how long one who asks for an output log waits for what was printed
	// last to be in it.
	sealPatience = 30 * time.Second
	// maxPartsTold bounds what is believed of an agent.
	maxPartsTold = 1 << 20
	// An honest agent's parts are large, or few. After a small one there is a pause, so
	// that another costs the storage no more than a few requests a second.
	smallPart  = 1 << 20
	smallPause = 100 * time.Millisecond
	// storeLast is the longest pause between attempts to store a part.
	storeLast = 30 * time.Second
)

// errStorage: a part has come, and cannot be kept.
var errStorage = errors.New("the storage fails")

// keepOutputLog stores what a kernel prints, part by part, until ctx ends. An agent
// gives a part until it is told that it is stored, so that a gateway that is killed
// loses none, and one that is stored already is not stored twice.
func (m *Manager) keepOutputLog(ctx context.Context, k *kernel, agent *agentapi.Client) {
	m.mu.Lock()
	keeps := k.record.Run != ""
	m.mu.Unlock()
	if !keeps {
		return
	}
	failing := false
	for pause := saveFirst; m.waitWork(ctx, k, func(s agentapi.Status) bool { return s.LogParts > 0 }); {
		stored, err := m.storeParts(ctx, k, agent)
		if stored > 0 {
			pause = saveFirst
		}
		if err != nil && ctx.Err() == nil {
			m.o.Metrics.AgentErrors.WithLabelValues("log").Inc()
			m.o.Log.Error("cannot store what a kernel prints; trying again",
				"kernel", k.id, "workspace", k.workspace, "in", pause, "error", err)
			if failing && errors.Is(err, errStorage) && k.isEnding() {
				m.giveUpParts(ctx, k, agent)
			}
		}
		failing = errors.Is(err, errStorage)
		if err == nil {
			// What the watch told last may be from before they were stored.
			if st, err := agent.Status(ctx); err == nil {
				m.observe(k, st)
			}
			if stored > 0 {
				continue
			}
			// It tells of parts and has none.
		}
		if !pauseStoring(ctx, k, pause) {
			return
		}
		pause = min(2*pause, storeLast)
	}
}

// pauseStoring pauses, for a second at most once the kernel ends, and reports whether
// ctx has not ended before.
func pauseStoring(ctx context.Context, k *kernel, pause time.Duration) bool {
	over, ending := time.After(pause), k.ending
	for {
		select {
		case <-ctx.Done():
			return false
		case <-over:
			return true
		case <-ending:
			over, ending = time.After(min(pause, saveFirst)), nil
		}
	}
}

// giveUpParts has an agent forget the parts that cannot be stored: its kernel is
// gone, and it would wait for that in vain.
func (m *Manager) giveUpParts(ctx context.Context, k *kernel, agent *agentapi.Client) {
	m.o.Log.Error("output of a kernel that ends is lost: it cannot be stored", "kernel", k.id, "workspace", k.workspace)
	if err := agent.LogStored(ctx, agentapi.MaxOutputParts); err != nil && ctx.Err() == nil {
		m.o.Log.Warn("an agent cannot be told to forget output", "kernel", k.id, "error", err)
	}
}

// storeParts stores the parts that a kernel's agent has, one after the other, and
// returns how many times it was told so.
func (m *Manager) storeParts(ctx context.Context, k *kernel, agent *agentapi.Client) (stored int, err error) {
	if m.o.OutputLogs == nil { // any more: what is kept nowhere must not fill the sandbox
		if err := agent.LogStored(ctx, agentapi.MaxOutputParts); err != nil {
			return 0, err
		}
		return 1, rest(ctx, smallPause)
	}
	leave, err := enter(ctx, k.storing, nil)
	if err != nil {
		return 0, err
	}
	defer leave()
	for {
		size, err := m.storePart(ctx, k, agent)
		if errors.Is(err, agentapi.ErrNoPart) {
			return stored, nil
		}
		if err != nil {
			return stored, err
		}
		stored++
		if size >= smallPart {
			continue
		}
		if err := rest(ctx, smallPause); err != nil {
			return stored, err
		}
	}
}

// rest waits for so long, unless ctx ends before.
func rest(ctx context.Context, pause time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pause):
		return nil
	}
}

// storePart stores the oldest part that a kernel's agent has, and returns its size. The
// caller holds the kernel's place to store.
func (m *Manager) storePart(ctx context.Context, k *kernel, agent *agentapi.Client) (size int, err error) {
	who := m.storer(k)
	if err := m.stores.waitPace(ctx, who.owner); err != nil {
		return 0, err
	}
	leave, err := m.stores.own(ctx, who)
	if err != nil {
		return 0, err
	}
	defer leave()
	told, content, err := agent.LogPart(ctx)
	if err != nil {
		return 0, err
	}
	m.stores.spent(who.owner, len(content))
	if err := m.putPart(ctx, k, told, content); err != nil {
		return 0, err
	}
	m.mu.Lock()
	k.stored++
	m.mu.Unlock()
	return len(content), agent.LogStored(ctx, told.Number)
}

// storer is for whom a kernel's parts are stored now.
func (m *Manager) storer(k *kernel) saver {
	m.mu.Lock()
	defer m.mu.Unlock()
	return saver{owner: k.owner, last: k.isEnding()}
}

// putPart stores a part that a kernel's agent has given.
func (m *Manager) putPart(ctx context.Context, k *kernel, told agentapi.OutputLogPart, content []byte) error {
	patience := storePatience
	last := k.isEnding()
	if last {
		patience = lastStorePatience
	}
	leave, err := m.stores.store(ctx, last)
	if err != nil {
		return err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m.mu.Lock()
	r := k.record
	m.mu.Unlock()
	begun := told.Begun
	if begun.Year() < 2000 || begun.Year() > 9999 { // the agent's clock, or a lie
		begun = time.UnixMilli(0)
	}
	part := outputlog.Part{Log: r.ID, Run: r.Run, Number: told.Number, From: told.From, Bytes: told.Bytes, Begun: begun}
	if err := m.o.OutputLogs.Put(ctx, r.Workspace, part, content, m.sessionsOfKernel(k)); err != nil {
		return fmt.Errorf("%w: %w", errStorage, err)
	}
	return nil
}

// sessionsOfKernel returns the ids of a kernel's sessions, the newest first.
func (m *Manager) sessionsOfKernel(k *kernel) (ids []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rows := m.rowsOf(k)
	slices.Reverse(rows)
	for _, row := range rows {
		ids = append(ids, row.ID)
	}
	return ids
}

// StoreOutput stores what a kernel has printed until now. ErrNotFound when there is no
// such kernel. That its agent or the storage does not answer is an error, too, and
// what was stored before can be read all the same.
func (m *Manager) StoreOutput(ctx context.Context, workspace, id string) error {
	m.mu.Lock()
	k, err := m.find(workspace, id)
	if err != nil {
		m.mu.Unlock()
		return err
	}
	agent, keeps := k.agent, k.record.Run != "" && m.o.OutputLogs != nil
	m.mu.Unlock()
	if agent == nil || !keeps {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, sealEvery+sealPatience)
	defer cancel()
	err = k.sealing.seal(ctx, func(ctx context.Context) (parts bool, err error) {
		before := m.partsStored(k)
		err = m.sealParts(ctx, k, agent)
		return m.partsStored(k) > before, err
	})
	if err != nil {
		m.o.Metrics.AgentErrors.WithLabelValues("log").Inc()
		return fmt.Errorf("%w: cannot store what kernel %s has printed: %w", ErrAgent, id, err)
	}
	return nil
}

// sealParts stores what a kernel has printed, as parts.
func (m *Manager) sealParts(ctx context.Context, k *kernel, agent *agentapi.Client) error {
	ctx, cancel := context.WithTimeout(ctx, sealPatience)
	defer cancel()
	if err := agent.SealLog(ctx); err != nil {
		return err
	}
	_, err := m.storeParts(ctx, k, agent)
	return err
}

// partsStored returns how many of a kernel's parts this process has stored.
func (m *Manager) partsStored(k *kernel) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return k.stored
}
