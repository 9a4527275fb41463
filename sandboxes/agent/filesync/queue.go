package filesync

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// change is a path to ask about.
type change struct {
	path      string
	local     bool // something happened here
	remote    bool // something happened in the store
	directory bool // it is one in the store
	size      int64
	etag      string        // of the file in the store, where that is known
	tries     int           // how often in a row it could not be settled; set by the queue
	after     time.Duration // not before that has passed; an earlier wish for the path is put off, up to settleAtMost
	at        time.Time     // what after counts from; zero means now. Of those of one time, small files come first
}

// job is a path that waits, or is being worked on.
type job struct {
	change
	first   time.Time // when it began to wait
	due     time.Time
	failed  int // in a row
	again   bool
	running bool
	asked   change // while running: what for
	early   bool   // running in the first pull: there is nothing here yet
	index   int    // in the heap; -1 while running
}

// queue holds the paths to ask about, each once. A path that is being worked on
// and changes meanwhile is asked about again afterwards: one at a time.
type queue struct {
	mu      sync.Mutex
	jobs    map[string]*job // guarded by mu
	small   line            // guarded by mu
	large   line            // guarded by mu
	changed chan struct{}   // guarded by mu; closed and replaced at each change
}

// line is the jobs of one kind of worker.
type line struct {
	waiting
	wake chan struct{} // of capacity 1: one worker looks, and wakes the next if there is more
}

func newQueue() *queue {
	q := &queue{jobs: map[string]*job{}, changed: make(chan struct{})}
	q.small.wake, q.large.wake = make(chan struct{}, 1), make(chan struct{}, 1)
	return q
}

// add asks about a path.
func (q *queue) add(c change) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := c.at
	if now.IsZero() {
		now = time.Now()
	}
	j := q.jobs[c.path]
	if j == nil {
		j = &job{change: c, first: now, due: now.Add(c.after), index: -1}
		q.jobs[c.path] = j
		q.push(j)
		q.notify()
		return
	}
	j.local, j.remote = j.local || c.local, j.remote || c.remote
	j.directory = j.directory || c.directory
	j.size = max(j.size, c.size)
	if j.running {
		j.again = true
		j.after = c.after
		return
	}
	q.remove(j)
	due := now.Add(c.after)
	if last := j.first.Add(settleAtMost); c.after > 0 && due.After(last) {
		due = last
	}
	j.due = due
	q.push(j)
	q.notify()
}

// reserve takes a path for the first pull, if nobody asks about it: it counts as
// being worked on, until done.
func (q *queue) reserve(c change) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.jobs[c.path] != nil {
		return false
	}
	q.jobs[c.path] = &job{
		change: change{path: c.path, size: c.size, etag: c.etag}, first: time.Now(), index: -1,
		running: true, asked: c, early: true,
	}
	return true
}

// expects reports whether the first pull is about to bring that version of a file.
func (q *queue) expects(p, etag string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	j := q.jobs[p]
	return j != nil && j.early && j.etag == etag
}

// take waits for the next path that is due and returns what was asked.
func (q *queue) take(ctx context.Context, large bool) (change, bool) {
	for {
		q.mu.Lock()
		l := q.of(large)
		wait := time.Hour
		if len(l.waiting) > 0 {
			j := l.waiting[0]
			if wait = time.Until(j.due); wait <= 0 {
				heap.Pop(&l.waiting)
				c := j.change
				c.tries = j.failed
				j.running, j.asked, j.again = true, c, false
				j.local, j.remote = false, false
				l.call()
				q.mu.Unlock()
				return c, true
			}
		}
		q.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return change{}, false
		case <-l.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// call wakes one worker if there is work. The caller holds mu.
func (l *line) call() {
	if len(l.waiting) == 0 {
		return
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (j *job) changedHere() bool { return j.local || j.running && j.asked.local }

// done says that a path was worked on. What could not be done is tried again
// after a while; the while grows up to longest, and there is no trying with zero.
func (q *queue) done(c change, longest time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.notify()
	j := q.jobs[c.path]
	j.running, j.early = false, false
	switch {
	case longest > 0:
		pause := min(retryFirst<<min(j.failed, 10), longest)
		j.failed++
		j.local, j.remote = j.local || c.local, j.remote || c.remote
		j.due = time.Now().Add(pause)
	case j.again:
		j.failed, j.first = 0, time.Now()
		j.due = j.first.Add(j.after)
	default:
		delete(q.jobs, c.path)
		return
	}
	q.push(j)
}

// hurry makes all due now.
func (q *queue) hurry() {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for _, l := range []*line{&q.small, &q.large} {
		for _, j := range l.waiting {
			if j.due.After(now) {
				j.due = now
			}
		}
		heap.Init(&l.waiting)
		l.call()
	}
}

// busy reports whether a path waits or is worked on.
func (q *queue) busy(p string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.jobs[p] != nil
}

// count counts the paths, those of them that changed here, and their bytes.
func (q *queue) count() (all, local int, bytes int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, j := range q.jobs {
		bytes += j.size
		if j.changedHere() {
			local++
		}
	}
	return len(q.jobs), local, bytes
}

// waitLocal waits until no path that changed here is left.
func (q *queue) waitLocal(ctx context.Context) bool {
	return q.wait(ctx, (*job).changedHere)
}

// waitRemote waits until no path that changed in the store is left.
func (q *queue) waitRemote(ctx context.Context) bool {
	return q.wait(ctx, func(j *job) bool { return j.remote || j.running && j.asked.remote })
}

func (q *queue) wait(ctx context.Context, any func(*job) bool) bool {
	for {
		q.mu.Lock()
		found := false
		for _, j := range q.jobs {
			if any(j) {
				found = true
				break
			}
		}
		changed := q.changed
		q.mu.Unlock()
		if !found {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
		// Thousands of changes need not be looked at one by one.
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			return false
		}
	}
}

// notify wakes all who wait. The caller holds mu.
func (q *queue) notify() {
	close(q.changed)
	q.changed = make(chan struct{})
}

func (q *queue) of(large bool) *line {
	if large {
		return &q.large
	}
	return &q.small
}

// push puts a job where it waits. The caller holds mu.
func (q *queue) push(j *job) {
	l := q.of(j.size > smallBytes)
	heap.Push(&l.waiting, j)
	l.call()
}

// remove takes a job from where it waits. The caller holds mu.
func (q *queue) remove(j *job) {
	for _, l := range []*line{&q.small, &q.large} {
		if j.index >= 0 && j.index < len(l.waiting) && l.waiting[j.index] == j {
			heap.Remove(&l.waiting, j.index)
			return
		}
	}
}

// waiting is a heap of jobs: first what is due first, then directories, then the
// smallest.
type waiting []*job

// Len implements sort.Interface.
func (w waiting) Len() int { return len(w) }

// Less implements sort.Interface.
func (w waiting) Less(i, j int) bool {
	if !w[i].due.Equal(w[j].due) {
		return w[i].due.Before(w[j].due)
	}
	if w[i].directory != w[j].directory {
		return w[i].directory
	}
	return w[i].size < w[j].size
}

// Swap implements sort.Interface.
func (w waiting) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].index, w[j].index = i, j
}

// Push implements heap.Interface.
func (w *waiting) Push(x any) {
	j := x.(*job)
	j.index = len(*w)
	*w = append(*w, j)
}

// Pop implements heap.Interface.
func (w *waiting) Pop() any {
	old := *w
	j := old[len(old)-1]
	old[len(old)-1] = nil
	*w = old[:len(old)-1]
	j.index = -1
	return j
}
