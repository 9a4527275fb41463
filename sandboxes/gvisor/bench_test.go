package gvisor_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"kernelgw/jupyter"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
	"kernelgw/sandboxes/gvisor"
)

// BenchmarkColdStart measures, from the call of Create, until it returns, until
// the agent answers and until the Python kernel of the default image has; and
// how long Destroy takes.
func BenchmarkColdStart(b *testing.B) {
	d, err := gvisor.New(gvisor.Options{StateDir: shortTempDir(b), Runsc: runsc(b), AgentPath: realAgent(b), Images: realImages(b)})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	specs, err := d.Kernelspecs(b.Context(), "")
	if err != nil {
		b.Fatal(err)
	}
	var kernel jupyter.Kernelspec
	if err := json.Unmarshal(specs["python3"].JSON, &kernel); err != nil {
		b.Fatal(err)
	}
	var created, answered, ready, destroyed time.Duration
	for i := range b.N {
		id := fmt.Sprintf("bench-%d", i)
		config, err := json.Marshal(agentapi.Config{
			Token: "t", KernelID: id, KernelName: "python3", Spec: kernel, ResourceDir: specs["python3"].Dir,
		})
		if err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		sb, err := d.Create(b.Context(), sandboxes.Spec{ID: id, AgentConfig: config})
		if err != nil {
			b.Fatal(err)
		}
		created += time.Since(start)
		a, r := untilReady(b, sb, start)
		answered, ready = answered+a, ready+r
		stop := time.Now()
		if err := d.Destroy(b.Context(), id); err != nil {
			b.Fatal(err)
		}
		destroyed += time.Since(stop)
	}
	for name, total := range map[string]time.Duration{"create": created, "agent": answered, "kernel": ready, "destroy": destroyed} {
		b.ReportMetric(float64(total.Milliseconds())/float64(b.N), name+"-ms")
	}
}

// untilReady asks the agent for its status again and again.
func untilReady(b *testing.B, sb sandboxes.Sandbox, start time.Time) (answered, ready time.Duration) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, sb.Agent.Network, sb.Agent.Address)
		},
	}}
	for time.Since(start) < time.Minute {
		time.Sleep(2 * time.Millisecond)
		r, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://agent/v1/status", nil)
		if err != nil {
			b.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer t")
		resp, err := client.Do(r)
		if err != nil {
			continue
		}
		var status agentapi.Status
		err = json.NewDecoder(resp.Body).Decode(&status)
		resp.Body.Close()
		if err != nil {
			b.Fatal(err)
		}
		if answered == 0 {
			answered = time.Since(start)
		}
		if status.Ready {
			return answered, time.Since(start)
		}
	}
	b.Fatal("the kernel is not ready after a minute")
	return 0, 0
}
