package wsproto_test

import (
	"bytes"
	"fmt"
	"testing"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
)

func sized(size, buffers int) jupyter.Message {
	m := jupyter.Message{
		Channel:      jupyter.Shell,
		Header:       []byte(`{"msg_id":"5f0b2d1c_12","msg_type":"stream","username":"u","session":"5f0b2d1c","date":"2026-01-02T03:04:05.678901Z","version":"5.4"}`),
		ParentHeader: []byte(`{"msg_id":"a-1","msg_type":"execute_request","username":"","session":"a","date":"2026-01-02T03:04:05.678901Z","version":"5.4"}`),
		Metadata:     []byte(`{}`),
		Content:      fmt.Appendf(nil, `{"name":"stdout","text":"%s"}`, bytes.Repeat([]byte("x"), size)),
	}
	for range buffers {
		m.Buffers = append(m.Buffers, make([]byte, size))
	}
	return m
}

// BenchmarkAppend: budget 0 allocations into a buffer that is large enough.
func BenchmarkAppend(b *testing.B) {
	for _, enc := range []wsproto.Encoding{wsproto.V1, wsproto.Legacy} {
		for _, size := range []int{100, 1 << 20} {
			for _, buffers := range []int{0, 1} {
				b.Run(fmt.Sprintf("%s/%d/buffers=%d", enc, size, buffers), func(b *testing.B) {
					m := sized(size, buffers)
					buf := make([]byte, 0, 2*m.Size()+1000)
					b.SetBytes(int64(m.Size()))
					b.ReportAllocs()
					for b.Loop() {
						wsproto.Append(buf, enc, &m)
					}
				})
			}
		}
	}
}

// BenchmarkDecode: budget 1 allocation for the slice of buffers, none without.
func BenchmarkDecode(b *testing.B) {
	for _, enc := range []wsproto.Encoding{wsproto.V1, wsproto.Legacy} {
		for _, size := range []int{100, 1 << 20} {
			for _, buffers := range []int{0, 1} {
				b.Run(fmt.Sprintf("%s/%d/buffers=%d", enc, size, buffers), func(b *testing.B) {
					m := sized(size, buffers)
					payload, binary := wsproto.Append(nil, enc, &m)
					b.SetBytes(int64(len(payload)))
					b.ReportAllocs()
					for b.Loop() {
						if _, err := wsproto.Decode(enc, binary, payload); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
