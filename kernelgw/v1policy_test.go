package kernelgw_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"kernelgw/kernelgw"
	"kernelgw/kernelgw/kernels"
	"kernelgw/kernelgw/policies"
	"kernelgw/sandboxes"
)

// governed is the part of the double of *kernels.Manager that is about policies.
type governed struct {
	can      sandboxes.Capabilities
	outdated []kernels.Outdated
	applied  []string // workspaces, in order
	failed   error    // of ApplyPolicy
	applying func()   // called by ApplyPolicy, when set
}

func (f *fakeKernels) Capabilities() sandboxes.Capabilities {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.governed.can
}

func (f *fakeKernels) CheckImage(_ context.Context, image string) error {
	if image == "gone" {
		return fmt.Errorf("%w: image %s is not on this server", kernels.ErrInvalid, image)
	}
	return nil
}

func (f *fakeKernels) ApplyPolicy(ctx context.Context, workspace string) ([]kernels.Outdated, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.governed.applying != nil {
		f.governed.applying()
	}
	f.governed.applied = append(f.governed.applied, workspace)
	return f.governed.outdated, errors.Join(f.governed.failed, ctx.Err())
}

func (f *fakeKernels) Outdated(context.Context, string) ([]kernels.Outdated, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.governed.outdated, f.fail
}

var (
	testDefault = policies.Settings{
		Resources: sandboxes.Resources{MemoryBytes: 2 << 30, Processes: 512, DiskBytes: 4 << 30},
		Network:   sandboxes.NetworkPolicy{Egress: sandboxes.EgressPackages, Allow: []string{"docs.example.org"}},
	}
	testBounds = policies.Bounds{
		Egress: []sandboxes.Egress{sandboxes.EgressPackages}, Hosts: true, Mirrors: []string{"https://mirror.example.org/simple"},
		Images: []string{"science", "gone"}, Most: sandboxes.Resources{CPUs: 4, MemoryBytes: 8 << 30, ShmBytes: 1 << 30, OpenFiles: 4096},
	}
)

// policyAnswer is what the three methods answer.
type policyAnswer struct {
	Policy, Effective policies.Policy
	Bounds            struct {
		Egress []string
		Hosts  bool
		Images []string
		Most   policies.Limits
	}
	Enforced struct{ Network, Memory bool }
	Changed  *string
	By       string
	Outdated []struct {
		Kernel string
		Parts  []string
	}
}

const policyPath = "/v1/workspaces/math/policy"

func (g *gateway) policy(r reply) (a policyAnswer) {
	g.t.Helper()
	g.want(r, http.StatusOK).json(g.t, &a)
	return a
}

func TestAPolicyThatNobodySetIsTheOperators(t *testing.T) {
	g := start(t)
	r := g.ada("GET", policyPath, "")
	a := g.policy(r)
	if a.Policy.Network != nil || a.Policy.Limits != nil || a.Changed != nil || r.Header.Get("ETag") != `"0"` || !strings.Contains(r.body, `"outdated":[]`) {
		t.Errorf("answer %s, ETag %q", r.body, r.Header.Get("ETag"))
	}
	if a.Effective.Network.Egress != "packages" || a.Effective.Limits.MemoryBytes != 2<<30 || a.Effective.Limits.CPUs != 4 {
		t.Errorf("in force is %s", r.body)
	}
	if !slices.Equal(a.Bounds.Egress, []string{"none", "packages"}) || a.Bounds.Most.MemoryBytes != 8<<30 || a.Bounds.Most.Processes != 512 {
		t.Errorf("bounds are %+v", a.Bounds)
	}
}

func TestAPolicyIsKeptAppliedAndTaken(t *testing.T) {
	g := start(t)
	g.kernels.set(func(f *fakeKernels) {
		f.governed.can.NetworkPolicy = true
		f.governed.outdated = []kernels.Outdated{{Kernel: "k1", Limits: true, Image: true}, {Kernel: "terminals", Network: true}}
	})
	body := `{"network": {"egress": "none", "allow": ["API.example.org.", "*.example.net:8443"]}, "limits": {"cpus": 1.5, "memory_bytes": 1073741824}, "image": "science"}`
	r := g.ada("PUT", policyPath, body)
	a := g.policy(r)
	if !slices.Equal(a.Policy.Network.Allow, []string{"api.example.org", "*.example.net:8443"}) || a.Effective.Limits.Processes != 512 ||
		a.Effective.Limits.CPUs != 1.5 || a.Effective.Image != "science" || a.By == "" || a.Changed == nil || !a.Enforced.Network || a.Enforced.Memory {
		t.Errorf("answer %s", r.body)
	}
	if len(a.Outdated) != 2 || a.Outdated[0].Kernel != "k1" || !slices.Equal(a.Outdated[0].Parts, []string{"limits", "image"}) ||
		!slices.Equal(a.Outdated[1].Parts, []string{"network"}) {
		t.Errorf("outdated is %+v", a.Outdated)
	}
	if got := g.ada("GET", policyPath, ""); got.body != r.body || got.Header.Get("ETag") != r.Header.Get("ETag") {
		t.Errorf("GET %s\nPUT %s", got.body, r.body)
	}
	if a := g.policy(g.ada("GET", "/v1/workspaces/team/policy", "")); a.Policy.Limits != nil {
		t.Error("the other workspace has it too")
	}
	gone := g.ada("DELETE", policyPath, "")
	if a := g.policy(gone); a.Policy.Network != nil || a.Effective.Image != "" || gone.Header.Get("ETag") != `"2"` {
		t.Errorf("after DELETE %s", gone.body)
	}
	if !slices.Equal(g.kernels.governed.applied, []string{"math", "math"}) {
		t.Errorf("applied to %q", g.kernels.governed.applied)
	}
	if n := strings.Count(g.log.String(), `msg="policy set" audit=policy workspace=math user=`); n != 2 {
		t.Errorf("%d audit lines in %s", n, g.log.String())
	}
}

func TestPolicyAboveTheBoundsIsRefusedAndNamesThem(t *testing.T) {
	g := start(t)
	for body, want := range map[string]string{
		`{"network": {"egress": "open"}}`:                          `network.egress: "open" may not be chosen; this server offers none, packages`,
		`{"network": {"egress": "all"}}`:                           `network.egress: "all" is not one of none, packages, open`,
		`{"network": {"mirror": "http://169.254.169.254/latest"}}`: `network.mirror: "http://169.254.169.254/latest" may not be chosen; this server offers https://mirror.example.org/simple`,
		`{"network": {"mirror": "http://127.0.0.1:8888/"}}`:        `network.mirror: `,
		`{"network": {"allow": ["169.254.169.254"]}}`:              `network.allow: no host pattern: "169.254.169.254" is an address`,
		`{"network": {"allow": ["*.com"]}}`:                        `network.allow: `,
		`{"network": {"allow": ["[::ffff:169.254.169.254]"]}}`:     `network.allow: `,
		`{"network": {"allow": ["example.org:25"]}}`:               `network.allow: `,
		`{"network": {"allow": "example.org"}}`:                    `network.allow must be a list of strings`,
		`{"network": []}`:                                          `network`,
		`{"limits": {"cpus": 64}}`:                                 `limits.cpus: 64; the most on this server is 4`,
		`{"limits": {"cpus": 0.001}}`:                              `limits.cpus: 0.001; the least is 0.1`,
		`{"limits": {"cpus": -1}}`:                                 `limits.cpus: -1; the least is 0.1`,
		`{"limits": {"cpus": "4"}}`:                                `limits.cpus must be a number`,
		`{"limits": {"memory_bytes": 8589934593}}`:                 `limits.memory_bytes: 8589934593; the most on this server is 8589934592`,
		`{"limits": {"memory_bytes": 1.5}}`:                        `limits.memory_bytes must be a whole number`,
		`{"limits": {"memory_bytes": 1e40}}`:                       `limits.memory_bytes must be a whole number`,
		`{"limits": {"processes": 513}}`:                           `limits.processes: 513; the most on this server is 512`,
		`{"limits": {"disk_bytes": 4294967297}}`:                   `limits.disk_bytes: `,
		`{"limits": {"shm_bytes": 9223372036854775807}}`:           `limits.shm_bytes: `,
		`{"limits": {"open_files": 5000}}`:                         `limits.open_files: 5000; the most on this server is 4096`,
		`{"limits": {"memory": 1073741824}}`:                       `limits.memory: unknown key; known are cpus, disk_bytes, memory_bytes, open_files, processes, shm_bytes`,
		`{"limits": {"CPUs": 1}}`:                                  `limits.CPUs: unknown key`,
		`{"Image": "science"}`:                                     `Image: unknown key; known are image, limits, network`,
		`{"image": "somebody/elses"}`:                              `image: "somebody/elses" may not be chosen; this server offers science, gone`,
		`{"image": "gone"}`:                                        `image gone is not on this server`,
		`[]`:                                                       `policy must be a JSON object`,
		`null`:                                                     `policy must be a JSON object`,
		``:                                                         `policy must be a JSON object`,
		`{"network": {"allow": [` + strings.Repeat(`"a.example.org",`, 101) + `"b.example.org"]}}`: `network.allow: 102 hosts; the limit is 100`,
	} {
		r := g.ada("PUT", policyPath, body)
		var e errorModel
		if r.StatusCode != http.StatusBadRequest {
			t.Errorf("PUT %s: %d %s", body, r.StatusCode, r.body)
			continue
		}
		if r.json(t, &e); !strings.Contains(strings.ToLower(e.Message), strings.ToLower(want)) || len(e.Message) > 500 {
			t.Errorf("PUT %s: %q, want %q", body, e.Message, want)
		}
	}
	if a := g.policy(g.ada("GET", policyPath, "")); a.Changed != nil {
		t.Errorf("a refused policy was kept: %+v", a)
	}
	g.want(g.ada("PUT", policyPath, `{"image": "`+strings.Repeat("x", 70<<10)+`"}`), http.StatusRequestEntityTooLarge)
}

func TestCapabilityMayReadThePolicyAndChangeNothing(t *testing.T) {
	g := start(t)
	g.policy(g.ada("PUT", policyPath, `{"network": {"egress": "none"}}`))
	base := g.capability("math")
	g.policy(g.do("GET", base+policyPath, ""))
	for _, method := range []string{"PUT", "DELETE"} {
		g.want(g.do(method, base+policyPath, `{"network": {"egress": "packages"}}`, "If-Match: *"), http.StatusForbidden)
	}
	g.want(g.do("GET", base+"/v1/workspaces/team/policy", ""), http.StatusNotFound)
	if a := g.policy(g.ada("GET", policyPath, "")); a.Policy.Network.Egress != "none" {
		t.Error("it did change the policy")
	}
}

func TestPolicyOfAnotherUsersWorkspaceDoesNotExist(t *testing.T) {
	g := start(t)
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		for _, path := range []string{policyPath, "/v1/workspaces/no-such/policy", "/v1/workspaces/ma%74h/policy", "/v1/workspaces/bob%2f..%2fmath/policy"} {
			g.want(g.do(method, path, `{}`, "Authorization: token "+bobToken), http.StatusNotFound)
		}
	}
}

func TestOfTwoWritersOfAPolicyOneIsTold(t *testing.T) {
	g := start(t)
	tag := g.ada("GET", policyPath, "").Header.Get("ETag")
	var won, lost sync.Map
	var writing sync.WaitGroup
	for i := range 8 {
		writing.Go(func() {
			r := g.ada("PUT", policyPath, fmt.Sprintf(`{"limits": {"processes": %d}}`, 100+i), "If-Match: "+tag)
			switch r.StatusCode {
			case http.StatusOK:
				won.Store(i, r.Header.Get("ETag"))
			case http.StatusPreconditionFailed:
				lost.Store(i, r.body)
			default:
				t.Errorf("PUT: %d %s", r.StatusCode, r.body)
			}
		})
	}
	writing.Wait()
	winners := 0
	won.Range(func(key, value any) bool {
		winners++
		if a := g.policy(g.ada("GET", policyPath, "")); a.Policy.Limits.Processes != int64(100+key.(int)) {
			t.Errorf("kept is %+v", a.Policy.Limits)
		}
		tag = value.(string)
		return true
	})
	if winners != 1 {
		t.Fatalf("%d writers won", winners)
	}
	// After a DELETE an old ETag does not come to mean what it meant.
	g.policy(g.ada("DELETE", policyPath, "", "If-Match: "+tag))
	for _, old := range []string{`"0"`, `"1"`, tag, `"9"`, `W/"2"`, "2", `"x", "y"`} {
		g.want(g.ada("PUT", policyPath, `{}`, "If-Match: "+old), http.StatusPreconditionFailed)
	}
	g.policy(g.ada("PUT", policyPath, `{}`, `If-Match: "7", "2"`))
	// Without a condition all writers win in turn.
	for range 4 {
		writing.Go(func() { g.policy(g.ada("PUT", policyPath, `{"limits": {"processes": 99}}`)) })
	}
	writing.Wait()
}

func TestAPolicyIsAppliedAlsoWhenItsWriterHasGone(t *testing.T) {
	g := start(t)
	ctx, leave := context.WithCancel(context.Background())
	g.kernels.set(func(f *fakeKernels) { f.governed.applying = leave })
	r, err := http.NewRequestWithContext(ctx, "PUT", g.url+policyPath, strings.NewReader(`{"network": {"egress": "none"}}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "token "+adaToken)
	if resp, err := g.client.Do(r); err == nil {
		resp.Body.Close()
	}
	ada := g.ada("GET", policyPath, "")
	if a := g.policy(ada); a.Policy.Network == nil || a.Policy.Network.Egress != "none" {
		t.Errorf("kept is %s", ada.body)
	}
	if strings.Contains(g.log.String(), "may not hold yet") {
		t.Errorf("applying it was broken off: %s", g.log.String())
	}
}

func TestAPolicyThatCouldNotBeAppliedIsTold(t *testing.T) {
	g := start(t)
	g.kernels.set(func(f *fakeKernels) { f.governed.failed = errors.New("nft broke at /secret/path of the host") })
	r := g.want(g.ada("PUT", policyPath, `{"network": {"egress": "none"}}`), http.StatusInternalServerError)
	if strings.Contains(r.body, "/secret/path") || !strings.Contains(g.log.String(), "may not hold yet") {
		t.Errorf("answer %s, log %s", r.body, g.log.String())
	}
	// While kernels are being adopted, nothing is changed.
	g.kernels.set(func(f *fakeKernels) { f.fail = fmt.Errorf("%w: adopting", kernels.ErrNotReady) })
	g.want(g.ada("DELETE", policyPath, ""), http.StatusServiceUnavailable)
	g.kernels.set(func(f *fakeKernels) { f.fail = nil })
	if a := g.policy(g.ada("GET", policyPath, "")); a.Policy.Network == nil {
		t.Error("a policy was changed by a gateway that was not ready")
	}
}

func TestAServerWithoutPoliciesSaysSo(t *testing.T) {
	g := start(t, func(o *kernelgw.Options) { o.Policies, o.Secrets = nil, nil })
	for _, path := range []string{policyPath, secretsPath} {
		var e errorModel
		g.want(g.ada("GET", path, ""), http.StatusNotFound).json(t, &e)
		if !strings.HasPrefix(e.Message, "This server keeps no ") {
			t.Errorf("GET %s: %q", path, e.Message)
		}
	}
}
