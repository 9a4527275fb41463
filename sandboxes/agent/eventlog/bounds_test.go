package eventlog

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The budget that an agent has when nothing else is configured.
const usual = 16 << 20

// text is a message of size bytes whose parent is in its own memory, as the
// agent's are.
func text(class Class, size int, parent string) Entry[[]byte] {
	value := append(make([]byte, 0, len(parent)+size), parent...)
	return Entry[[]byte]{Class: class, Parent: value[:len(parent)], Bytes: size, Cost: cap(value), Value: value[:cap(value)]}
}

// What the log holds of memory, whatever is appended: at most half as much again
// as the budget when messages have the size of a kernel's, and never twice.
func TestMemoryIsBounded(t *testing.T) {
	for name, c := range map[string]struct {
		most   int64
		append func(l *Log[[]byte])
	}{
		"a million tiny messages": {2 * usual, func(l *Log[[]byte]) {
			for range 1_000_000 {
				l.Append(text(Stream, 10, "p"))
			}
		}},
		"lines of a kernel": {usual * 3 / 2, func(l *Log[[]byte]) {
			parent := strings.Repeat("p", 220)
			for range 200_000 {
				l.Append(text(Stream, 300, parent))
			}
		}},
		"tiny messages of every class": {2 * usual, func(l *Log[[]byte]) {
			for i := range 300_000 {
				l.Append(text(Class(i%3), 10, "p"))
			}
		}},
		"tiny messages that stay between others": {2 * usual, func(l *Log[[]byte]) {
			for i := range 300_000 {
				class := Stream
				if i%10 == 0 {
					class = Kept
				}
				l.Append(text(class, 300, "p"))
			}
		}},
		"few huge messages": {usual * 3 / 2, func(l *Log[[]byte]) {
			for range 30 {
				l.Append(text(Display, 7<<20, "p"))
			}
		}},
		"messages larger than the budget": {40<<20 + usual/2, func(l *Log[[]byte]) {
			for range 4 {
				l.Append(text(Display, 40<<20, "p"))
			}
		}},
		"many parents": {usual * 3 / 2, func(l *Log[[]byte]) {
			long := strings.Repeat("p", maxRunParent-8)
			for i := range 20_000 {
				l.Append(text(Class(i%3), 100, fmt.Sprint(i, long)))
			}
		}},
		"many huge parents": {usual * 3 / 2, func(l *Log[[]byte]) {
			long := strings.Repeat("p", 256<<10)
			for i := range 200 {
				l.Append(text(Class(i%3), 100, fmt.Sprint(i, long)))
			}
		}},
		"many addressees that are forgotten": {2 * usual, func(l *Log[[]byte]) {
			for i := range 80_000 {
				e := text(Kept, 10, "p")
				e.To = fmt.Sprintf("%0100d", i)
				e.Cost += len(e.To)
				l.Append(e)
				l.Forget(e.To)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			before := heap()
			l := New[[]byte](usual)
			c.append(l)
			if held := heap() - before; held > c.most {
				t.Errorf("%d MiB are held, want at most %d", held>>20, c.most>>20)
			} else {
				t.Logf("%d MiB are held in %+v", held>>20, l.Stats())
			}
			runtime.KeepAlive(l)
		})
	}
}

// heap is what is in use after what is not was collected.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// An append costs the same whatever the log holds. What depended on the number
// of entries would cost 256 times as much in the larger log; time is that of this
// thread's processor, so that a busy machine does not count.
func TestAppendCostsTheSameInALargeLog(t *testing.T) {
	const appends = 100_000
	for name, class := range map[string]func(i int) Class{
		"streams":     func(int) Class { return Stream },
		"every class": func(i int) Class { return Class(i % 3) },
		"mostly kept": func(i int) Class { return Kept - Class(i%50/49)*Kept },
		"kept first":  func(i int) Class { return Class(i/30_000%2) * Kept },
	} {
		t.Run(name, func(t *testing.T) {
			cost := func(budget int64) time.Duration {
				best := time.Hour
				for range 2 {
					l := New[int](budget)
					began := threadTime(t)
					for i := range appends {
						l.Append(Entry[int]{Class: class(i), Bytes: 100, Cost: 100})
					}
					best = min(best, threadTime(t)-began)
				}
				return best
			}
			small, large := cost(1<<16), cost(1<<24)
			t.Logf("%v an append in a small log, %v in a large one", small/appends, large/appends)
			if large > 60*small {
				t.Errorf("%d appends take %v in a log of 64 KiB and %v in one of 16 MiB", appends, small, large)
			}
		})
	}
}

func threadTime(t *testing.T) time.Duration {
	runtime.LockOSThread()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		t.Fatal(err)
	}
	return time.Duration(now.Nano())
}
