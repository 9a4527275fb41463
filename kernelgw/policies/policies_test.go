package policies_test

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kernelgw/kernelgw/policies"
	"kernelgw/kernelgw/registry"
	"kernelgw/kernelgw/registry/memory"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/netpolicy/egress"
)

const gib = 1 << 30

var fallback = policies.Settings{
	Image:     "default",
	Resources: sandboxes.Resources{MemoryBytes: 2 * gib, Processes: 512, DiskBytes: 4 * gib},
	Network: sandboxes.NetworkPolicy{
		Egress: sandboxes.EgressPackages, Allow: []string{"docs.example.org"}, Mirror: "https://mirror.example.org/simple",
	},
}

func open(t *testing.T, store registry.Store, b policies.Bounds) *policies.Policies {
	t.Helper()
	p, err := policies.New(policies.Options{Store: store, Default: fallback, Bounds: b})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func set(t *testing.T, p *policies.Policies, text string) (policies.Kept, error) {
	t.Helper()
	policy, err := policies.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	kept, err := p.Get(t.Context(), "w")
	if err != nil {
		t.Fatal(err)
	}
	return p.Set(t.Context(), "w", policy, kept.Version, "test:ada")
}

func of(t *testing.T, p *policies.Policies) policies.Settings {
	t.Helper()
	s, err := p.Of(t.Context(), "w")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var generous = policies.Bounds{
	Egress: []sandboxes.Egress{sandboxes.EgressOpen}, Hosts: true, Mirrors: []string{"http://10.0.0.5:3141/root"}, Images: []string{"science"},
	Most: sandboxes.Resources{CPUs: 8, MemoryBytes: 16 * gib, Processes: 2048, DiskBytes: 64 * gib, ShmBytes: gib, OpenFiles: 8192},
}

func TestWhatIsInForce(t *testing.T) {
	for text, change := range map[string]func(*policies.Settings){
		`{}`:                nil,
		`{"network": null}`: nil,
		// The network that a workspace sets is all of its network.
		`{"network": {}}`:                 func(s *policies.Settings) { s.Network.Allow = nil },
		`{"network": {"egress": "none"}}`: func(s *policies.Settings) { s.Network = sandboxes.NetworkPolicy{Egress: sandboxes.EgressNone} },
		`{"network": {"egress": "open"}}`: func(s *policies.Settings) { s.Network = sandboxes.NetworkPolicy{Egress: sandboxes.EgressOpen} },
		`{"network": {"allow": ["b.example.org", "A.example.org", "b.example.org:443", "B.example.org."]}}`: func(s *policies.Settings) {
			s.Network.Allow = []string{"b.example.org", "a.example.org", "b.example.org:443"}
		},
		`{"network": {"mirror": "http://10.0.0.5:3141/root"}}`: func(s *policies.Settings) {
			s.Network.Allow, s.Network.Mirror = nil, "http://10.0.0.5:3141/root"
		},
		`{"network": {"egress": "none", "mirror": "http://10.0.0.5:3141/root"}}`: func(s *policies.Settings) {
			s.Network = sandboxes.NetworkPolicy{Egress: sandboxes.EgressNone}
		},
		`{"limits": {"cpus": 0.5, "memory_bytes": 17179869184, "shm_bytes": 1073741824, "open_files": 64}}`: func(s *policies.Settings) {
			s.Resources.CPUs, s.Resources.MemoryBytes, s.Resources.ShmBytes, s.Resources.OpenFiles = 0.5, 16*gib, gib, 64
		},
		`{"limits": {"cpus": 0}}`: nil,
		`{"image": "science"}`:    func(s *policies.Settings) { s.Image = "science" },
		`{"image": "default"}`:    nil,
	} {
		p := open(t, memory.New(), generous)
		if _, err := set(t, p, text); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		want := fallback
		want.Resources.CPUs = 8 // no limit is more than the most
		if change != nil {
			change(&want)
		}
		got := of(t, p)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
		if err := egress.Check(got.Network); err != nil {
			t.Errorf("%s: the egress proxy refuses it: %v", text, err)
		}
	}
}

// An operator takes back what was offered: what workspaces chose under it is cut,
// and nobody is opened by that.
func TestAChoiceThatIsTakenBackIsCutAndOpensNobody(t *testing.T) {
	store := memory.New()
	before := open(t, store, generous)
	if _, err := set(t, before, `{"network": {"egress": "open", "allow": ["own.example.net", "docs.example.org"], "mirror": "http://10.0.0.5:3141/root"},
		"limits": {"cpus": 8, "memory_bytes": 17179869184, "disk_bytes": 1073741824, "shm_bytes": 1073741824, "open_files": 8192}, "image": "science"}`); err != nil {
		t.Fatal(err)
	}
	after := open(t, store, policies.Bounds{})
	want := fallback
	want.Resources.DiskBytes, want.Resources.CPUs = gib, 8 // of CPUs there is no bound any more
	want.Resources.ShmBytes, want.Resources.OpenFiles = gib, 8192
	if diff := cmp.Diff(want, of(t, after)); diff != "" {
		t.Error(diff)
	}
	if _, err := set(t, before, `{"network": {"egress": "none"}}`); err != nil {
		t.Fatal(err)
	}
	if got := of(t, after).Network; got.Egress != sandboxes.EgressNone || len(got.Allow) != 0 || got.Mirror != "" {
		t.Errorf("a closed workspace was opened: %+v", got)
	}
}

func TestBoundsHoldAtTheEdge(t *testing.T) {
	for _, c := range []struct {
		bounds      policies.Bounds
		text, error string
	}{
		{policies.Bounds{}, `{"network": {"egress": "packages"}}`, ""},
		{policies.Bounds{}, `{"network": {"egress": "none"}}`, ""},
		{policies.Bounds{}, `{"network": {"egress": "open"}}`, "network.egress"},
		{policies.Bounds{}, `{"network": {"allow": ["docs.example.org"]}}`, ""},
		{policies.Bounds{}, `{"network": {"allow": ["docs.example.org:8443"]}}`, "network.allow"},
		{policies.Bounds{}, `{"network": {"allow": ["*.docs.example.org"]}}`, "network.allow"},
		{policies.Bounds{}, `{"network": {"mirror": "https://mirror.example.org/simple"}}`, ""},
		{policies.Bounds{}, `{"network": {"mirror": "https://mirror.example.org/simple/"}}`, "network.mirror"},
		{policies.Bounds{}, `{"limits": {"memory_bytes": 2147483648}}`, ""},
		{policies.Bounds{}, `{"limits": {"memory_bytes": 2147483649}}`, "limits.memory_bytes"},
		{policies.Bounds{}, `{"limits": {"memory_bytes": 67108863}}`, "limits.memory_bytes"},
		{policies.Bounds{}, `{"limits": {"shm_bytes": 2147483649}}`, "limits.shm_bytes"},
		{policies.Bounds{}, `{"limits": {"open_files": 65537}}`, "limits.open_files"},
		{policies.Bounds{}, `{"limits": {"open_files": 9223372036854775807}}`, "limits.open_files"},
		{policies.Bounds{}, `{"limits": {"cpus": 128}}`, ""}, // the operator set no limit
		{policies.Bounds{}, `{"image": "science"}`, "image"},
		{generous, `{"limits": {"cpus": 8}}`, ""},
		{generous, `{"limits": {"cpus": 8.01}}`, "limits.cpus"},
		{generous, `{"limits": {"cpus": 0.1}}`, ""},
		{generous, `{"limits": {"processes": 15}}`, "limits.processes"},
	} {
		_, err := set(t, open(t, memory.New(), c.bounds), c.text)
		switch {
		case c.error == "" && err != nil:
			t.Errorf("%s: %v", c.text, err)
		case c.error != "" && (!errors.Is(err, policies.ErrInvalid) || !strings.Contains(err.Error(), c.error+": ")):
			t.Errorf("%s: %v, want %s", c.text, err, c.error)
		}
	}
}

func TestOperatorsSettingsThatContradictThemselvesAreNamed(t *testing.T) {
	for want, o := range map[string]policies.Options{
		"limits.memory_bytes": {Default: fallback, Bounds: policies.Bounds{Most: sandboxes.Resources{MemoryBytes: gib}}},
		`"all"`:               {Default: fallback, Bounds: policies.Bounds{Egress: []sandboxes.Egress{"all"}}},
		`"127.0.0.1"`:         {Default: policies.Settings{Network: sandboxes.NetworkPolicy{Allow: []string{"127.0.0.1"}}}},
		`mirror "ftp://x"`:    {Default: fallback, Bounds: policies.Bounds{Mirrors: []string{"ftp://x"}}},
		`mirror "https://u:p@x/"`: {
			Default: policies.Settings{Network: sandboxes.NetworkPolicy{Egress: sandboxes.EgressPackages, Mirror: "https://u:p@x/"}},
		},
	} {
		if _, err := policies.New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestOneOfManyWritersWinsAndVersionsNeverComeAgain(t *testing.T) {
	p := open(t, memory.New(), generous)
	var wins atomic.Int32
	var writing sync.WaitGroup
	for range 8 {
		writing.Go(func() {
			switch _, err := p.Set(t.Context(), "w", policies.Policy{Image: "science"}, 0, "x"); {
			case err == nil:
				wins.Add(1)
			case !errors.Is(err, policies.ErrChanged):
				t.Error(err)
			}
		})
	}
	writing.Wait()
	if wins.Load() != 1 {
		t.Errorf("%d writers won", wins.Load())
	}
	kept, err := p.Set(t.Context(), "w", policies.Policy{}, 1, "x")
	if err != nil || kept.Version != 2 || kept.Changed.IsZero() || kept.By != "x" {
		t.Errorf("taken back: %+v, %v", kept, err)
	}
	if _, err := p.Set(t.Context(), "w", policies.Policy{}, 0, "x"); !errors.Is(err, policies.ErrChanged) {
		t.Errorf("a writer who saw no policy won: %v", err)
	}
}

func TestDamagedPolicyIsNamedAndNotTakenForNone(t *testing.T) {
	store := memory.New()
	if _, err := store.Put(t.Context(), registry.Record{Kind: registry.Policies, ID: "w", Value: json.RawMessage(`{"policy": 1}`)}); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, store, generous).Of(t.Context(), "w"); err == nil || !strings.Contains(err.Error(), "workspace w") {
		t.Errorf("Of: %v", err)
	}
}

// Whatever somebody asks for: it is refused, or it is within the bounds and the
// egress proxy takes it.
func FuzzPolicyWithinBounds(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"network": {"egress": "open", "allow": ["*.example.org:8443"]}}`, `{"limits": {"cpus": 1e-9}}`, `{"limits": {"memory_bytes": -1}}`,
		`{"image": "science"}`, `{"network": {"mirror": "http://169.254.169.254/"}}`, `{"network": {"allow": ["127.1"]}}`, `{"limits": {"open_files": 1e3}}`,
	} {
		f.Add(s)
	}
	p, err := policies.New(policies.Options{Store: memory.New(), Default: fallback, Bounds: generous})
	if err != nil {
		f.Fatal(err)
	}
	most := p.Bounds().Most
	f.Fuzz(func(t *testing.T, text string) {
		policy, err := policies.Parse([]byte(text))
		if err != nil {
			if !errors.Is(err, policies.ErrInvalid) || len(err.Error()) > 1000 {
				t.Fatalf("Parse(%q): %v", text, err)
			}
			return
		}
		again, err := json.Marshal(policy)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := policies.Parse(again); err != nil || cmp.Diff(policy.Limits, second.Limits) != "" {
			t.Fatalf("%q is written as %s, which is read as %+v, %v", text, again, second, err)
		}
		s := p.Settle(policy)
		r := s.Resources
		if math.IsNaN(r.CPUs) || r.CPUs > most.CPUs || r.MemoryBytes > most.MemoryBytes || r.Processes > most.Processes ||
			r.DiskBytes > most.DiskBytes || r.ShmBytes > most.ShmBytes || r.OpenFiles > most.OpenFiles {
			t.Fatalf("%q: %+v is above %+v", text, r, most)
		}
		if s.Image != "default" && s.Image != "science" {
			t.Fatalf("%q: image %q", text, s.Image)
		}
		kept, err := p.Get(t.Context(), "w")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Set(t.Context(), "w", policy, kept.Version, "x"); err != nil {
			if !errors.Is(err, policies.ErrInvalid) {
				t.Fatalf("Set(%q): %v", text, err)
			}
			return
		}
		s = of(t, p)
		if s.Resources.CPUs < 0 || s.Resources.MemoryBytes < 64<<20 || s.Resources.Processes < 16 {
			t.Fatalf("%q: %+v is below what a sandbox needs", text, s.Resources)
		}
		if err := egress.Check(s.Network); err != nil || s.Network.Mirror != "" && !slices.Contains([]string{generous.Mirrors[0], fallback.Network.Mirror}, s.Network.Mirror) {
			t.Fatalf("%q: %+v: %v", text, s.Network, err)
		}
	})
}
