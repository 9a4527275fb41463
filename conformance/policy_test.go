package conformance

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kernelgw/conformance/probe"
	"kernelgw/conformance/servers"
)

// governed starts a kernelgw of ann and bob whose operator lets workspaces choose
// something.
func governed(t *testing.T) (ann *target, bob *probe.Server) {
	t.Helper()
	users := []servers.User{
		{Name: "ann", Token: probe.ID(), Workspaces: []string{"anns", "both"}},
		{Name: "bob", Token: probe.ID(), Workspaces: []string{"bobs", "both"}},
	}
	ann = own(t, servers.Options{Users: users, Args: []string{
		"--egress", "packages", "--offer-hosts", "--processes", "256", "--max-processes", "512", "--max-cpus", "2", "--max-memory", "8GiB",
	}})
	return ann, &probe.Server{Base: ann.Base, Token: users[1].Token}
}

// policyAnswer is what is checked of an answer about a policy.
type policyAnswer struct {
	Policy, Effective struct {
		Network *struct {
			Egress string
			Allow  []string
		}
		Limits *struct {
			CPUs      float64
			Processes int
		}
	}
	Bounds struct {
		Egress []string
		Hosts  bool
	}
	Changed  *string
	Outdated []struct {
		Kernel string
		Parts  []string
	}
}

const policyOfAnns = "v1/workspaces/anns/policy"

func policyOf(t *testing.T, a *probe.Answer) (p policyAnswer) {
	t.Helper()
	a.Want(t, 200).Decode(t, &p)
	return p
}

func TestPolicyOfAWorkspaceIsChosenWithinTheOperatorsBounds(t *testing.T) {
	t.Parallel()
	ann, bob := governed(t)
	isolated := servers.Driver() != "process" // plain processes have no limits
	first := ann.Do(t, "GET", policyOfAnns, nil)
	if p := policyOf(t, first); p.Changed != nil || p.Policy.Network != nil || p.Effective.Network.Egress != "packages" || isolated && p.Effective.Limits.Processes != 256 ||
		!slices.Equal(p.Bounds.Egress, []string{"none", "packages"}) || !p.Bounds.Hosts {
		t.Errorf("nobody chose anything, and the policy is %s", first.Body)
	}
	for body, named := range map[string]string{
		`{"network": {"egress": "open"}}`:                      "network.egress",
		`{"network": {"mirror": "http://169.254.169.254/"}}`:   "network.mirror",
		`{"network": {"allow": ["169.254.169.254"]}}`:          "network.allow",
		`{"network": {"allow": ["0xa9.0xfe.0xa9.0xfe"]}}`:      "network.allow",
		`{"network": {"allow": ["[::ffff:10.0.0.1]:443"]}}`:    "network.allow",
		`{"network": {"allow": ["metadata.google.internal"]}}`: "network.allow",
		`{"network": {"allow": ["*.org"]}}`:                    "network.allow",
		`{"network": {"allow": ["example.org:22"]}}`:           "network.allow",
		`{"network": {"allow": ["https://example.org/"]}}`:     "network.allow",
		`{"limits": {"processes": 513}}`:                       "limits.processes",
		`{"limits": {"processes": 1}}`:                         "limits.processes",
		`{"limits": {"cpus": 2.5}}`:                            "limits.cpus",
		`{"limits": {"memory_bytes": 99999999999999}}`:         "limits.memory_bytes",
		`{"limits": {"open_files": 9223372036854775807}}`:      "limits.open_files",
		`{"limits": {"cpu": 1}}`:                               "limits.cpu",
		`{"image": "somebody/elses"}`:                          "image",
		`{"networks": {}}`:                                     "networks",
		`[1]`:                                                  "policy",
	} {
		if message, _ := ann.Do(t, "PUT", policyOfAnns, body).Want(t, 400).Object(t)["message"].(string); !strings.Contains(strings.ToLower(message), named) {
			t.Errorf("PUT %s answers %q, which does not name %s", body, message, named)
		}
	}

	k := ann.StartKernel(t)
	model := ann.Do(t, "GET", "api/kernels/"+k.ID, nil).Want(t, 200).Object(t)
	set := ann.Do(t, "PUT", policyOfAnns, `{"network": {"egress": "none", "allow": ["B\u00fccher.example", "*.example.org:8443"]}, "limits": {"processes": 300, "cpus": 1.5}}`,
		probe.With("If-Match", first.Header.Get("ETag")))
	p := policyOf(t, set)
	if !slices.Equal(p.Effective.Network.Allow, []string{"xn--bcher-kva.example", "*.example.org:8443"}) || p.Effective.Limits.CPUs != 1.5 || p.Changed == nil {
		t.Errorf("after PUT the policy is %s", set.Body)
	}
	if isolated != slices.ContainsFunc(p.Outdated, func(o struct {
		Kernel string
		Parts  []string
	},
	) bool {
		return o.Kernel == k.ID && slices.Contains(o.Parts, "limits")
	}) {
		t.Errorf("a kernel runs under the limits of before, and the answer tells of %+v", p.Outdated)
	}
	after := ann.Do(t, "GET", "api/kernels/"+k.ID, nil).Want(t, 200).Object(t)
	if len(after) != len(model) {
		t.Errorf("the model of a kernel was %v and is %v", model, after)
	}
	ann.Do(t, "PUT", policyOfAnns, `{}`, probe.With("If-Match", first.Header.Get("ETag"))).Want(t, 412)

	// Others.
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		bob.Do(t, method, policyOfAnns, `{}`).Want(t, 404)
		ann.Do(t, method, policyOfAnns, `{}`, probe.Anonymous).Want(t, 403)
	}
	made := ann.Do(t, "POST", "v1/capabilities", map[string]string{"workspace": "anns"}).Want(t, 201).Object(t)
	capability := &probe.Server{Base: made["url"].(string)}
	policyOf(t, capability.Do(t, "GET", policyOfAnns, nil))
	capability.Do(t, "PUT", policyOfAnns, `{}`).Want(t, 403)
	capability.Do(t, "DELETE", policyOfAnns, nil).Want(t, 403)
	capability.Do(t, "GET", "v1/workspaces/both/policy", nil).Want(t, 404)

	// A gateway that is killed has kept it.
	if err := ann.process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := ann.process.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := ann.Do(t, "GET", policyOfAnns, nil)
	if p := policyOf(t, again); p.Effective.Network.Egress != "none" || again.Header.Get("ETag") != set.Header.Get("ETag") {
		t.Errorf("after a kill the policy is %s with ETag %s, which was %s", again.Body, again.Header.Get("ETag"), set.Header.Get("ETag"))
	}
	if p := policyOf(t, ann.Do(t, "DELETE", policyOfAnns, nil, probe.With("If-Match", again.Header.Get("ETag")))); p.Policy.Network != nil || p.Effective.Network.Egress != "packages" {
		t.Errorf("after DELETE the policy is %+v", p)
	}
}

func TestSecretsOfAWorkspaceAreUsedAndNeverSeen(t *testing.T) {
	t.Parallel()
	ann, bob := governed(t)
	const at = "v1/workspaces/anns/secrets"
	value := "value-" + probe.ID() + probe.ID()
	body := map[string]any{"value": value, "hosts": []string{"API.example.org", "*.example.net"}}
	var said bytes.Buffer
	answer := func(a *probe.Answer, status int) *probe.Answer {
		t.Helper()
		fmt.Fprintf(&said, "%s %v\n", a.Body, a.Header)
		return a.Want(t, status)
	}
	made := answer(ann.Do(t, "PUT", at+"/API_KEY", body), 201).Object(t)
	placeholder, _ := made["placeholder"].(string)
	if !strings.HasPrefix(placeholder, "kgw-secret-") || len(placeholder) != len("kgw-secret-")+32 {
		t.Errorf("the placeholder is %q", placeholder)
	}
	answer(ann.Do(t, "PUT", at+"/API_KEY", body), 200)
	answer(ann.Do(t, "GET", at, nil), 200)
	for name, change := range map[string]any{
		"LD_PRELOAD": body, "https_proxy": body, "PYTHONSTARTUP": body, "A-B": body,
		"NO_HOSTS":   map[string]any{"value": value},
		"ALL_OF_COM": map[string]any{"value": value, "hosts": []string{"*.com"}},
		"ANYBODYS":   map[string]any{"value": value, "hosts": []string{"*.github.io"}},
		"AN_ADDRESS": map[string]any{"value": value, "hosts": []string{"127.0.0.1"}},
		"LINES":      map[string]any{"value": value + "\r\nX: y", "hosts": []string{"api.example.org"}},
		"AS_A_KEY":   map[string]any{value: "x"},
		"AS_A_LIST":  map[string]any{"value": []string{value}, "hosts": []string{"api.example.org"}},
		"NO_JSON":    value,
	} {
		answer(ann.Do(t, "PUT", at+"/"+name, change), 400)
	}
	answer(ann.Do(t, "PUT", at+"/LARGE", map[string]any{"value": strings.Repeat(value, 1000), "hosts": []string{"api.example.org"}}), 413)
	for method, path := range map[string]string{"GET": at, "PUT": at + "/API_KEY", "DELETE": at + "/API_KEY"} {
		answer(bob.Do(t, method, path, body), 404)
		answer(ann.Do(t, method, path, body, probe.Anonymous), 403)
	}
	capability := &probe.Server{Base: ann.Do(t, "POST", "v1/capabilities", map[string]string{"workspace": "anns"}).Want(t, 201).Object(t)["url"].(string)}
	answer(capability.Do(t, "GET", at, nil), 404)
	answer(capability.Do(t, "PUT", at+"/API_KEY", body), 404)

	k := ann.StartKernel(t)
	w := ann.Dial(t, k.ID, probe.Dialing{Session: probe.ID()})
	if got := w.Run(t, "import os; print(os.environ['API_KEY'])").Stdout; strings.TrimSpace(got) != placeholder {
		t.Errorf("a kernel has %q, want the placeholder", got)
	}
	if got := w.Run(t, fmt.Sprintf("print(sum(%q in v for v in os.environ.values()))", value[:12])).Stdout; strings.TrimSpace(got) != "0" {
		t.Errorf("a kernel's environment has the value: %q", got)
	}

	if err := ann.process.Kill(); err != nil {
		t.Fatal(err)
	}
	found := 0
	err := filepath.WalkDir(ann.process.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // what a kernel does meanwhile
		}
		if content, err := os.ReadFile(path); err == nil {
			found++
			if bytes.Contains(content, []byte(value)) {
				t.Errorf("the value is in %s", path)
			}
		}
		return nil
	})
	if err != nil || found < 3 {
		t.Errorf("looked into %d files: %v", found, err)
	}
	if strings.Contains(said.String(), value) {
		t.Errorf("an answer has the value: %s", said.String())
	}
	for _, line := range []string{"secret set", "name=API_KEY"} {
		if log, err := os.ReadFile(filepath.Join(ann.process.Dir, "server.log")); err != nil || !strings.Contains(string(log), line) {
			t.Errorf("the log does not have %q (%v)", line, err)
		}
	}
	if err := ann.process.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	var list []struct {
		Name, Placeholder string
		Hosts             []string
	}
	answer(ann.Do(t, "GET", at, nil), 200).Decode(t, &list)
	if len(list) != 1 || list[0].Placeholder != placeholder || !slices.Equal(list[0].Hosts, []string{"api.example.org", "*.example.net"}) {
		t.Errorf("after a kill the secrets are %+v", list)
	}
	answer(ann.Do(t, "DELETE", at+"/API_KEY", nil), 204)
	answer(ann.Do(t, "DELETE", at+"/API_KEY", nil), 404)
	next := ann.Dial(t, ann.StartKernel(t).ID, probe.Dialing{Session: probe.ID()})
	if got := next.Run(t, "import os; print('API_KEY' in os.environ)").Stdout; got != "False\n" {
		t.Errorf("a new kernel still has the deleted secret: %q", got)
	}
}
