package outputlog

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// leastCharge is what the smallest part counts, and a name: a storage has so much work with each
// that many small ones are as bad as a large one.
const leastCharge = 4 << 10

func charge(size int64) int64 { return max(size, leastCharge) }

// kept is a part in a listing of a workspace.
type kept struct {
	key   string
	bytes int64
}

// held is what is kept of a log.
type held struct {
	parts []kept // the oldest first
	names []string
	bytes int64
}

// list returns what is kept of a workspace by log, and how much that is. The caller
// holds the workspace.
func (l *Logs) list(ctx context.Context, name string) (logs map[string]*held, total int64, err error) {
	logs = map[string]*held{}
	of := func(key string, bytes int64) *held {
		log := logOf(key)
		if logs[log] == nil {
			logs[log] = &held{}
		}
		logs[log].bytes += bytes
		total += bytes
		return logs[log]
	}
	err = l.o.Store.EachAside(ctx, name, partsPrefix, func(key string, size int64, _ time.Time) error {
		h := of(key, charge(size))
		h.parts = append(h.parts, kept{key, charge(size)})
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	err = l.o.Store.EachAside(ctx, name, namesPrefix, func(key string, _ int64, _ time.Time) error {
		h := of(key, leastCharge)
		h.names = append(h.names, key)
		return nil
	})
	return logs, total, err
}

// dropOldest removes the oldest part of a log from a listing, with the last one the
// names too, and returns their keys.
func (h *held) dropOldest() (keys []string) {
	if len(h.parts) > 0 {
		keys = append(keys, h.parts[0].key)
		h.bytes -= h.parts[0].bytes
		h.parts = h.parts[1:]
	}
	if len(h.parts) == 0 {
		keys = append(keys, h.names...)
		h.names, h.bytes = nil, 0
	}
	return keys
}

// room makes room for so many bytes. What is removed is the oldest of whichever log is
// the largest, so that one that prints without end costs no other log anything; and an
// eighth more than must be, so that it is done seldom. The caller holds the workspace.
func (l *Logs) room(ctx context.Context, name string, w *workspace, wanted int64) error {
	most := l.o.WorkspaceBytes
	if most <= 0 || w.counted && w.bytes+wanted <= most {
		return nil
	}
	logs, total, err := l.list(ctx, name)
	if err != nil {
		return err
	}
	w.counted, w.bytes = true, total
	if total+wanted <= most {
		return nil
	}
	drop := map[string]bool{}
	for total > 0 && total+wanted > most-most/8 {
		largest := ""
		for log, h := range logs {
			if largest == "" || h.bytes > logs[largest].bytes || h.bytes == logs[largest].bytes && log < largest {
				largest = log
			}
		}
		h := logs[largest]
		before := h.bytes
		for _, key := range h.dropOldest() {
			drop[key] = true
		}
		total -= before - h.bytes
		if h.bytes == 0 {
			delete(logs, largest)
		}
	}
	w.counted = false // unless all of it works
	clear(w.named)
	for _, prefix := range []string{partsPrefix, namesPrefix} {
		err = l.o.Store.PruneAsides(ctx, name, prefix, func(key string, _ int64, _ time.Time) bool { return drop[key] })
		if err != nil {
			return err
		}
	}
	w.counted, w.bytes = true, total
	l.o.Log.Info("the output logs of a workspace were full; the oldest of the largest were removed", "workspace", name, "objects", len(drop))
	return nil
}

// Run removes what is too old from time to time, until ctx ends.
func (l *Logs) Run(ctx context.Context) error {
	ticker := time.NewTicker(l.o.Every)
	defer ticker.Stop()
	for {
		if err := l.Sweep(ctx); err != nil && ctx.Err() == nil {
			l.o.Log.Warn("cannot remove old output; trying again later", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Sweep removes once what is too old, in all workspaces.
func (l *Logs) Sweep(ctx context.Context) error {
	names, err := l.o.Store.Workspaces(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if err := l.sweep(ctx, name); err != nil {
			errs = append(errs, fmt.Errorf("cannot remove old output of workspace %s: %w", name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

func (l *Logs) sweep(ctx context.Context, name string) error {
	w, leave, err := l.enter(ctx, name)
	if err != nil {
		return err
	}
	defer leave()
	old := func(written time.Time) bool { return time.Since(written) > l.o.Keep }
	w.counted = false // unless all of it works
	left, total, removed := map[string]bool{}, int64(0), 0
	err = l.o.Store.PruneAsides(ctx, name, partsPrefix, func(key string, size int64, written time.Time) bool {
		if old(written) {
			removed++
			return true
		}
		left[logOf(key)] = true
		total += charge(size)
		return false
	})
	if err != nil {
		return err
	}
	names, err := l.pruneNames(ctx, name, w, func(n named) bool { return old(n.written) && !left[logOf(n.key)] })
	if err == nil {
		w.counted, w.bytes = true, total+int64(names)*leastCharge
	}
	if removed > 0 {
		l.o.Log.Info("removed old output", "workspace", name, "parts", removed)
	}
	return err
}
