package netpolicy

import (
	"strconv"
	"testing"
	"time"

	"kernelgw/sandboxes"
)

// Budget: a slot with rules takes under 20 ms, also when none is ready, and
// with hundreds of others in the tables.
func BenchmarkAcquire(b *testing.B) {
	for _, c := range []struct {
		name          string
		ready, others int
	}{{"ready", 64, 0}, {"made on demand", 0, 0}, {"made on demand among 300", 0, 300}} {
		b.Run(c.name, func(b *testing.B) {
			n := openOn(b, newHost(b), Options{Ready: c.ready})
			for i := range c.others {
				acquire(b, n, "other-"+strconv.Itoa(i))
			}
			i, worst := 0, time.Duration(0)
			for b.Loop() {
				b.StopTimer()
				id := "sandbox-" + strconv.Itoa(i)
				if c.ready > 0 {
					waitReady(b, n, 1)
				}
				i++
				b.StartTimer()
				start := time.Now()
				_, err := n.Acquire(b.Context(), id, sandboxes.NetworkPolicy{})
				worst = max(worst, time.Since(start))
				b.StopTimer()
				if err != nil {
					b.Fatal(err)
				}
				if err := n.Release(b.Context(), id); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(worst.Microseconds())/1000, "ms-worst")
		})
	}
}

func BenchmarkRelease(b *testing.B) {
	n := openOn(b, newHost(b), Options{})
	i := 0
	for b.Loop() {
		b.StopTimer()
		id := "sandbox-" + strconv.Itoa(i)
		acquire(b, n, id)
		i++
		b.StartTimer()
		if err := n.Release(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
}
