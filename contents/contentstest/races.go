package contentstest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"kernelgw/contents"
)

func (s *suite) wantQuota(err error, used int64) {
	s.Helper()
	var quota *contents.QuotaError
	if !errors.As(err, &quota) {
		s.Errorf("got error %v, want a QuotaError", err)
	} else if quota.Used != used || quota.Limit != quotaLimit || quota.Wanted <= 0 {
		s.Errorf("got %+v, want %d of %d used", quota, used, quotaLimit)
	}
}

func number(i int) string { return fmt.Sprintf("%05d", i) }

// parallel calls f for each number below n, sixteen at a time.
func parallel(n int, f func(i int)) {
	var next atomic.Int64
	var done sync.WaitGroup
	for range 16 {
		done.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	done.Wait()
}

func testConcurrency(s *suite) {
	s.sentence("fifty writers of one file: every acknowledged write is a version", func(s *suite) {
		var mu sync.Mutex
		var acknowledged []string
		parallel(50, func(i int) {
			e, err := s.store.Put(s.ctx, s.workspace, "a", strings.NewReader(strconv.Itoa(i)), contents.PutOptions{})
			if err != nil {
				s.Errorf("writer %d: %v", i, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			acknowledged = append(acknowledged, e.Version)
		})
		var kept []string
		for _, v := range s.versions("a") {
			kept = append(kept, v.Entry.Version)
		}
		slices.Sort(acknowledged)
		slices.Sort(kept)
		s.want("versions", kept, acknowledged)
	})
	s.sentence("of fifty writers that each want to be the first one is", func(s *suite) {
		var winners atomic.Int64
		parallel(50, func(i int) {
			err := s.tryPut("a", strconv.Itoa(i), contents.PutOptions{IfNone: true})
			var changed *contents.ChangedError
			switch {
			case err == nil:
				winners.Add(1)
			case !errors.As(err, &changed):
				s.Errorf("writer %d: %v", i, err)
			}
		})
		s.want("winners", winners.Load(), int64(1))
	})
	s.sentence("a counter behind a condition loses no count", func(s *suite) {
		s.put("n", "0")
		const writers, each = 8, 4
		parallel(writers, func(int) {
			for range each {
				s.increment("n")
			}
		})
		s.want("count", s.read("n", ""), strconv.Itoa(writers*each))
	})
	s.sentence("of renames, deletes and writes of one version one is done", func(s *suite) {
		for round := range 8 {
			name := number(round)
			seen := s.put(name, "seen")
			match := contents.Match{Version: seen.Version}
			var done atomic.Int64
			parallel(9, func(i int) {
				var err error
				switch i % 3 {
				case 0:
					_, err = s.store.Move(s.ctx, s.workspace, name, fmt.Sprint(name, "-", i), "ann", match)
				case 1:
					err = s.store.Delete(s.ctx, s.workspace, name, "ann", match)
				default:
					err = s.tryPut(name, "changed", contents.PutOptions{IfVersion: seen.Version})
				}
				var changed *contents.ChangedError
				if err == nil {
					done.Add(1)
				} else if !errors.As(err, &changed) {
					s.Errorf("change %d: %v", i, err)
				}
			})
			s.want("changes that were made", done.Load(), int64(1))
		}
	})
	s.sentence("an ended context ends the wait", func(s *suite) {
		ctx, cancel := context.WithCancel(s.ctx)
		cancel()
		if _, err := s.store.Stat(ctx, s.workspace, ""); !errors.Is(err, context.Canceled) && !errors.Is(err, contents.ErrUnavailable) && err != nil {
			s.Errorf("stat: %v", err)
		}
		if _, err := s.store.Put(ctx, s.workspace, "a", strings.NewReader("x"), contents.PutOptions{}); err == nil {
			s.Error("put: no error")
		}
	})
}

func (s *suite) increment(path string) {
	for {
		body, e, err := s.store.Open(s.ctx, s.workspace, path, "", 0, -1)
		if err != nil {
			s.Error(err)
			return
		}
		var n int
		_, err = fmt.Fscan(body, &n)
		body.Close()
		if err != nil {
			s.Error(err)
			return
		}
		err = s.tryPut(path, strconv.Itoa(n+1), contents.PutOptions{IfVersion: e.Version})
		var changed *contents.ChangedError
		if errors.As(err, &changed) {
			continue
		}
		if err != nil {
			s.Error(err)
		}
		return
	}
}

func testWatching(s *suite) {
	s.sentence("changes of this workspace are told in order until the context ends", func(s *suite) {
		changes := s.watch()
		first := s.put("d/a", "one", contents.PutOptions{Parents: true, Source: "sync", Author: "ann"})
		s.put("d/a", "two")
		s.move("d", "e")
		s.remove("e/a")
		s.mkdir("f")
		s.remove("f")
		var told []contents.Change
		s.until(changes, func(c contents.Change) bool {
			told = append(told, c)
			return c.Deleted && c.Path == "f"
		})
		position := func(what string, want func(c contents.Change) bool) int {
			i := slices.IndexFunc(told, want)
			if i < 0 {
				s.Errorf("nothing told of %s: %+v", what, told)
			}
			return i
		}
		made := position("the first write", func(c contents.Change) bool {
			return c.Path == "d/a" && !c.Deleted && c.Source == "sync" && c.Entry.SHA256 == first.SHA256 && c.Entry.Version == first.Version
		})
		moved := position("the moved file at its new place", func(c contents.Change) bool { return c.Path == "e/a" && !c.Deleted })
		position("the moved file at its old place", func(c contents.Change) bool { return c.Path == "d/a" && c.Deleted })
		gone := position("the deleted file", func(c contents.Change) bool { return c.Path == "e/a" && c.Deleted })
		directory := position("the new directory", func(c contents.Change) bool { return c.Path == "f" && !c.Deleted && c.Entry.Directory })
		if !(made < moved && moved < gone && gone < directory) {
			s.Errorf("out of order: %+v", told)
		}
	})
	s.sentence("changes of another workspace are not told", func(s *suite) {
		changes := s.watch()
		other := *s
		other.workspace += "x"
		other.put("other", "x")
		s.put("a", "x")
		s.until(changes, func(c contents.Change) bool {
			if c.Path == "other" {
				s.Error("told")
			}
			return c.Path == "a"
		})
	})
}

// watch starts to watch, and returns when changes are being told.
func (s *suite) watch() <-chan contents.Change {
	s.Helper()
	ctx, cancel := context.WithCancel(s.ctx)
	changes := make(chan contents.Change, 4096)
	var watching sync.WaitGroup
	watching.Go(func() {
		s.store.Watch(ctx, s.workspace, func(c contents.Change) { changes <- c }, func() { s.Error("lost") })
	})
	s.Cleanup(func() { cancel(); watching.Wait() })
	// Watch says no word when it begins, so writes are made until one is told.
	for {
		s.put("probe", "x")
		select {
		case <-changes:
			s.remove("probe")
			s.until(changes, func(c contents.Change) bool { return c.Deleted })
			return changes
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (s *suite) until(changes <-chan contents.Change, last func(contents.Change) bool) {
	s.Helper()
	for {
		select {
		case c := <-changes:
			if last(c) {
				return
			}
		case <-time.After(10 * time.Second):
			s.Fatal("a change was not told within 10 s")
		}
	}
}
