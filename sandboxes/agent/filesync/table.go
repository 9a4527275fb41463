package filesync

import (
	"strings"
	"sync"
	"time"
)

// directoryTag is the ETag of directories, which have none.
const directoryTag = "directory"

// synced is what a path was when both sides were last the same.
type synced struct {
	etag string // of the store's file, or directoryTag; "" when the store has none
	stat stat   // of the file here; absent when there is none
	sum  sum
	// unsure says that the file could have changed within the grain of the
	// clock when it was looked at: equal times do not mean equal content.
	unsure bool
	// kept says that the store does not have what stat describes, and is not
	// to get it until it changes, or until retry: it came with the image, or
	// the store refuses it.
	kept  bool
	retry time.Time // zero means never
}

// table remembers what both sides were.
type table struct {
	mu sync.Mutex
	m  map[string]synced // guarded by mu
}

func newTable() *table { return &table{m: map[string]synced{}} }

func (t *table) get(p string) synced {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.m[p]
}

func (t *table) set(p string, s synced) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.etag == "" && !s.kept {
		delete(t.m, p)
		return
	}
	t.m[p] = s
}

// remote returns what the store had, by path.
func (t *table) remote() map[string]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make(map[string]string, len(t.m))
	for p, s := range t.m {
		if s.etag != "" {
			all[p] = s.etag
		}
	}
	return all
}

// paths returns all paths that were here.
func (t *table) paths() map[string]synced {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make(map[string]synced, len(t.m))
	for p, s := range t.m {
		all[p] = s
	}
	return all
}

// below returns the paths below a directory.
func (t *table) below(dir string) (paths []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for p := range t.m {
		if strings.HasPrefix(p, dir+"/") {
			paths = append(paths, p)
		}
	}
	return paths
}

// count counts what is the same on both sides, and what stays here.
func (t *table) count() (same, kept int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.m {
		switch {
		case s.etag != "":
			same++
		case !s.retry.IsZero():
			kept++
		}
	}
	return same, kept
}
