package outputlog

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A log is found by the sessions that its kernel had last: whoever makes sessions of
// one kernel without end must not fill the storage with their names.
const (
	// maxNames is how many sessions a log keeps, when one looks: up to as many more may
	// have come since.
	maxNames = 100
	// putNames is how many of those that Put is given count, and putNewNames how many
	// of them are written at once.
	putNames    = maxNames / 2
	putNewNames = 16
)

// nameOf is the name of an object that says that a session has a log.
func nameOf(session, log string) string { return namesPrefix + session + "/" + log }

// logOf returns the log of a name, or of a part.
func logOf(key string) string {
	if name, ok := strings.CutPrefix(key, namesPrefix); ok {
		return name[strings.LastIndexByte(name, '/')+1:]
	}
	log, _, _ := strings.Cut(strings.TrimPrefix(key, partsPrefix), "/")
	return log
}

// unnamed returns which names a log is to have now that it may not have. The caller
// holds the workspace.
func (w *workspace) unnamed(log string, sessions []string) (names []string) {
	for _, session := range sessions[:min(len(sessions), putNames)] {
		name := nameOf(session, log)
		if len(names) < putNewNames && !w.named[log][name] && validID.MatchString(session) {
			names = append(names, name)
		}
	}
	return names
}

// name gives a log names. The caller holds the workspace, and has made room.
func (l *Logs) name(ctx context.Context, workspace string, w *workspace, log string, names []string) error {
	for _, name := range names {
		created, err := l.o.Store.CreateAside(ctx, workspace, name, nil)
		if err != nil {
			return fmt.Errorf("cannot keep whose output that of kernel %s is: %w", log, err)
		}
		if created {
			w.bytes += leastCharge
		}
		if w.named[log] == nil {
			w.named[log] = map[string]bool{}
		}
		w.named[log][name] = true
	}
	if len(w.named[log]) <= maxNames {
		return nil
	}
	if _, err := l.pruneNames(ctx, workspace, w, func(named) bool { return false }); err != nil {
		return fmt.Errorf("cannot forget whose output that of kernel %s was: %w", log, err)
	}
	w.counted = false
	return nil
}

// named is a name in a listing of a workspace.
type named struct {
	key     string
	written time.Time
}

// pruneNames removes the names that drop is true for, and the oldest of logs that have
// too many, and returns how many are left. The caller holds the workspace.
func (l *Logs) pruneNames(ctx context.Context, workspace string, w *workspace, drop func(named) bool) (left int, err error) {
	byLog, gone := map[string][]named{}, map[string]bool{}
	err = l.o.Store.EachAside(ctx, workspace, namesPrefix, func(key string, _ int64, written time.Time) error {
		if n := (named{key, written}); drop(n) {
			gone[key] = true
		} else {
			byLog[logOf(key)] = append(byLog[logOf(key)], n)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, names := range byLog {
		slices.SortStableFunc(names, func(a, b named) int { return b.written.Compare(a.written) })
		for _, n := range names[min(len(names), maxNames):] {
			gone[n.key] = true
		}
		left += min(len(names), maxNames)
	}
	clear(w.named) // they are found to be there, or are made again, with the next part
	if len(gone) == 0 {
		return left, nil
	}
	return left, l.o.Store.PruneAsides(ctx, workspace, namesPrefix, func(key string, _ int64, _ time.Time) bool { return gone[key] })
}
