package outputlog

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// leastCharge is what the smallest part counts: a storage has so much work with each
// that many small ones are as bad as a large one.
const leastCharge = 64 << 10

func charge(size int64) int64 { return max(size, leastCharge) }

// kept is a part in a listing of a workspace.
type kept struct {
	key   string
	bytes int64
}

// list returns what is kept of a workspace by log, the oldest first, and how much that
// is. The caller holds the workspace.
func (l *Logs) list(ctx context.Context, name string) (logs map[string][]kept, total int64, err error) {
	logs = map[string][]kept{}
	err = l.o.Store.EachAside(ctx, name, partsPrefix, func(key string, size int64, _ time.Time) error {
		log, _, _ := strings.Cut(strings.TrimPrefix(key, partsPrefix), "/")
		logs[log] = append(logs[log], kept{key, charge(size)})
		total += charge(size)
		return nil
	})
	return logs, total, err
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
	sizes := map[string]int64{}
	for log, parts := range logs {
		for _, p := range parts {
			sizes[log] += p.bytes
		}
	}
	drop := map[string]bool{}
	for total > 0 && total+wanted > most-most/8 {
		largest := ""
		for log, size := range sizes {
			if largest == "" || size > sizes[largest] || size == sizes[largest] && log < largest {
				largest = log
			}
		}
		oldest := logs[largest][0]
		logs[largest] = logs[largest][1:]
		sizes[largest] -= oldest.bytes
		if len(logs[largest]) == 0 {
			delete(sizes, largest)
		}
		total -= oldest.bytes
		drop[oldest.key] = true
	}
	w.counted = false // unless all of it works
	err = l.o.Store.PruneAsides(ctx, name, partsPrefix, func(key string, _ int64, _ time.Time) bool { return drop[key] })
	if err != nil {
		return err
	}
	w.counted, w.bytes = true, total
	l.o.Log.Info("the output logs of a workspace were full; the oldest parts of the largest were removed", "workspace", name, "parts", len(drop))
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
		log, _, _ := strings.Cut(strings.TrimPrefix(key, partsPrefix), "/")
		left[log] = true
		total += charge(size)
		return false
	})
	if err != nil {
		return err
	}
	w.counted, w.bytes = true, total
	clear(w.named) // they may be removed now, and are made again with the next part
	err = l.o.Store.PruneAsides(ctx, name, namesPrefix, func(key string, _ int64, written time.Time) bool {
		return old(written) && !left[key[strings.LastIndexByte(key, '/')+1:]]
	})
	if removed > 0 {
		l.o.Log.Info("removed old output", "workspace", name, "parts", removed)
	}
	return err
}
