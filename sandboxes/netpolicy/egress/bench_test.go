package egress

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"
)

// BenchmarkDownload compares HTTPS downloads through the proxy with the same
// ones without it, in turns, each over a connection of its own (as pip's first
// is) or over one that is kept. The proxy's budget: less than 20 % more at p50, less
// than twice at p99.
func BenchmarkDownload(b *testing.B) {
	for _, size := range []int{1 << 20, 64 << 20} {
		for _, kept := range []bool{false, true} {
			b.Run(fmt.Sprintf("%dMiB/kept=%v", size>>20, kept), func(b *testing.B) { benchmarkDownload(b, size, kept) })
		}
	}
}

func benchmarkDownload(b *testing.B, size int, kept bool) {
	w := newWorld(b).serve()
	body := make([]byte, size)
	server := w.host("data.example.org", publicIP, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body)
	}))
	// HTTP/1.1, as pip, conda and curl through a proxy: Go's HTTP/2 client is
	// slower than the proxy.
	proxied := w.admit(1, only("data.example.org"))
	proxied.TLSClientConfig.NextProtos = []string{"http/1.1"}
	direct := w.admit(2, only("data.example.org"))
	direct.TLSClientConfig.NextProtos = []string{"http/1.1"}
	direct.Proxy = nil
	// Without a proxy a client resolves the name itself.
	direct.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		if _, err := w.proxy.resolver.LookupNetIP(ctx, "ip", "data.example.org."); err != nil {
			return nil, err
		}
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	}
	for _, s := range []*sandbox{proxied, direct} {
		s.DisableKeepAlives = !kept
		s.ReadBufferSize = 64 << 10
		s.http.Timeout = 0
	}
	download := func(s *sandbox) time.Duration {
		start := time.Now()
		response, err := s.http.Get("https://data.example.org/")
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if err != nil || n != int64(size) {
			b.Fatal(n, err)
		}
		return time.Since(start)
	}
	download(proxied)
	download(direct)
	var through, without []time.Duration
	for i := 0; b.Loop(); i++ {
		// In turns, and each first in half of them, so that what else the machine
		// does hits both alike.
		if i%2 == 0 {
			through, without = append(through, download(proxied)), append(without, download(direct))
		} else {
			without, through = append(without, download(direct)), append(through, download(proxied))
		}
	}
	at := func(list []time.Duration, q float64) float64 {
		slices.Sort(list)
		return list[min(len(list)-1, int(q*float64(len(list))))].Seconds() * 1000
	}
	b.ReportMetric(at(without, .5), "direct-p50-ms")
	b.ReportMetric(at(through, .5), "proxy-p50-ms")
	b.ReportMetric(at(without, .99), "direct-p99-ms")
	b.ReportMetric(at(through, .99), "proxy-p99-ms")
	b.ReportMetric(at(through, .5)/at(without, .5), "p50-ratio")
	b.ReportMetric(at(through, .99)/at(without, .99), "p99-ratio")
}
