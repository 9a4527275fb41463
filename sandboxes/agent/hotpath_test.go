package agent

import (
	"net"
	"testing"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
)

// nowhere is a net.Conn that takes everything.
type nowhere struct{ net.Conn }

func (nowhere) Write(b []byte) (int, error) { return len(b), nil }

// output is a message as kernels send in numbers.
func output() *jupyter.Message {
	m := jupyter.NewStream("stdout", "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789", "kernel", nil)
	m.ParentHeader = []byte(`{"msg_id":"a-1","msg_type":"execute_request","username":"","session":"a","date":"2026-01-02T03:04:05.678901Z","version":"5.4"}`)
	return m
}

// What output costs between ZeroMQ and the WebSocket: one allocation, for the
// encoding that the log keeps and all clients share.
func TestOutputAllocatesOnce(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector's allocations would be counted; run without -race")
	}
	h, m := followedHub(1<<20), output()
	for range 10_000 { // until the log is full, so that it lets go as much as it takes
		h.fromKernel(m, nil)
	}
	if allocs := testing.AllocsPerRun(10_000, func() { h.fromKernel(m, nil) }); allocs > 1 {
		t.Errorf("%v allocations for a message, want 1", allocs)
	}
	h.legacy.Add(1)
	defer h.legacy.Add(-1)
	// The other encoding grows as its escapes are found.
	if allocs := testing.AllocsPerRun(10_000, func() { h.fromKernel(m, nil) }); allocs > 3 {
		t.Errorf("%v allocations for a message in two encodings, want at most 3", allocs)
	}
}

func TestWritingAllocatesNothing(t *testing.T) {
	large := output()
	large.Buffers = [][]byte{make([]byte, largeMessage)}
	for name, m := range map[string]*jupyter.Message{"small": output(), "large": large} {
		e := entry(m, "", kindStream, true)
		for _, enc := range []wsproto.Encoding{wsproto.V1, wsproto.Legacy} {
			if enc == wsproto.Legacy && name == "large" {
				continue // it is encoded for each: two encodings would fill the log
			}
			s := &socket{encoding: enc, conn: &corkedConn{Conn: nowhere{}, wrote: func(int) {}}}
			if allocs := testing.AllocsPerRun(10_000, func() {
				if err := s.writeFrame(&e.Value); err != nil {
					t.Fatal(err)
				}
			}); allocs > 0 {
				t.Errorf("%s, %s: %v allocations to write a message, want none", name, enc, allocs)
			}
		}
	}
}

// BenchmarkFromKernel is the way of an iopub message from ZeroMQ into the log,
// without system calls and readers. Budget: 1 allocation (TestOutputAllocatesOnce).
func BenchmarkFromKernel(b *testing.B) {
	h, m := followedHub(16<<20), output()
	b.ReportAllocs()
	for b.Loop() {
		h.fromKernel(m, nil)
	}
}
