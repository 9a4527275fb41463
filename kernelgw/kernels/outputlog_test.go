package kernels_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"kernelgw/kernelgw/kernels"
	"kernelgw/kernelgw/outputlog"
	"kernelgw/kernelgw/registry"
	"kernelgw/kernelgw/registry/memory"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
	"kernelgw/sandboxes/sandboxtest"
)

// shelf is where parts of output are put, each once.
type shelf struct {
	mu    sync.Mutex
	parts map[string]string // content by "WORKSPACE/LOG/RUN-NUMBER"
	named map[string]bool   // sessions
	puts  int
	fails int // so many times
}

func newShelf() *shelf { return &shelf{parts: map[string]string{}, named: map[string]bool{}} }

func (s *shelf) Put(_ context.Context, workspace string, p outputlog.Part, content []byte, sessions []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.puts++; s.fails > 0 {
		s.fails--
		return errors.New("the storage does not answer")
	}
	key := workspace + "/" + p.Log + "/" + p.Name()
	if s.parts[key] == "" {
		s.parts[key] = string(content)
	}
	for _, id := range sessions {
		s.named[id] = true
	}
	return nil
}

// kept returns the contents, in the order of their numbers, and the one run that they
// are of.
func (s *shelf) kept() (contents string, runs map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	runs = map[string]bool{}
	for n := 1; n <= len(s.parts); n++ {
		for key, content := range s.parts {
			if run, ok := strings.CutSuffix(key, fmt.Sprintf("-%08d", n)); ok {
				contents += content
				runs[run] = true
			}
		}
	}
	return contents, runs
}

// printer makes an agent have parts of output, each of one letter, until they are
// stored.
type printer struct {
	agent *sandboxtest.Agent

	mu     sync.Mutex
	first  int64
	parts  []string
	deaf   int // acknowledgements that are lost
	seals  int
	sealed string // printed, and in no part before it is asked for
}

func newPrinter(agent *sandboxtest.Agent) *printer {
	p := &printer{agent: agent, first: 1}
	agent.Handle("POST /v1/log/seal", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		p.seals++
		if p.sealed != "" {
			p.parts = append(p.parts, p.sealed)
			p.sealed = ""
		}
		p.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	})
	agent.Handle("GET /v1/log/parts", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.parts) == 0 {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		line, _ := json.Marshal(agentapi.OutputLogPart{Number: p.first, From: p.first - 1, Bytes: 1, Size: 1})
		_, _ = fmt.Fprintf(w, "%s\n%s", line, p.parts[0])
	})
	for _, n := range []int64{1, 2, 3, 4, 5, 6, 7, 8, 9, agentapi.MaxOutputParts} {
		agent.Handle(fmt.Sprint("DELETE /v1/log/parts/", n), func(w http.ResponseWriter, _ *http.Request) { p.forget(w, n) })
	}
	return p
}

func (p *printer) forget(w http.ResponseWriter, n int64) {
	p.mu.Lock()
	if p.deaf > 0 {
		p.deaf--
		p.mu.Unlock()
		http.Error(w, "{}", http.StatusInternalServerError)
		return
	}
	for len(p.parts) > 0 && p.first <= n {
		p.parts, p.first = p.parts[1:], p.first+1
	}
	p.mu.Unlock()
	p.tell()
	w.WriteHeader(http.StatusNoContent)
}

func (p *printer) tell() {
	p.mu.Lock()
	n := len(p.parts)
	p.mu.Unlock()
	p.agent.Update(func(st *agentapi.Status) { st.LogParts = n })
}

func (p *printer) print(letters string) {
	p.mu.Lock()
	p.parts = append(p.parts, strings.Split(letters, "")...)
	p.mu.Unlock()
	p.tell()
}

func (p *printer) waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.parts)
}

func withShelf(s *shelf) func(*kernels.Options) {
	return func(o *kernels.Options) { o.OutputLogs = s }
}

// printing starts a kernel whose agent has output.
func printing(t *testing.T, s *shelf, store registry.Store) (*gateway, kernels.Kernel, *printer, *sandboxtest.Fake) {
	t.Helper()
	driver := sandboxtest.NewFake(t)
	g := start(t, driver, store, withShelf(s))
	k := g.start(t, kernels.StartRequest{Owner: "ann", Own: true})
	return g, k, newPrinter(driver.Agent(onlySandbox(t, driver).Spec.ID)), driver
}

func (p *printer) stored(t *testing.T, s *shelf, want string) {
	t.Helper()
	eventually(t, "all is stored", func() bool { return p.waiting() == 0 })
	if got, runs := s.kept(); got != want || len(runs) != 1 {
		t.Errorf("%q is kept of %d runs, want %q", got, len(runs), want)
	}
}

func TestWhatIsPrintedIsStoredPartByPart(t *testing.T) {
	s := newShelf()
	g, k, p, driver := printing(t, s, memory.New())
	x, err := g.CreateSession(t.Context(), kernels.SessionRequest{Workspace: "w", Path: "n.ipynb", Type: "notebook", KernelID: k.ID})
	if err != nil {
		t.Fatal(err)
	}
	p.print("abc")
	p.stored(t, s, "abc")
	p.print("d")
	p.stored(t, s, "abcd")
	s.mu.Lock()
	named := s.named[x.ID]
	s.mu.Unlock()
	if !named {
		t.Error("the log is not that of the session")
	}
	var config agentapi.Config
	if err := json.Unmarshal(onlySandbox(t, driver).Spec.AgentConfig, &config); err != nil {
		t.Fatal(err)
	}
	if config.OutputLog == nil || config.OutputLog.Place != "/w/w/v1/sessions/"+k.ID+"/logs" || config.OutputLog.SpoolBytes != agentapi.DefaultSpoolBytes {
		t.Errorf("the agent is told %+v", config.OutputLog)
	}
}

func TestWhereOutputIsAndHowMuchOfItWaits(t *testing.T) {
	for limit, spool := range map[int64]int64{256 << 20: 32 << 20, 2 << 30: 64 << 20} {
		driver := sandboxtest.NewFake(t)
		g := start(t, driver, memory.New(), withShelf(newShelf()), func(o *kernels.Options) {
			o.BaseURL, o.Resources.MemoryBytes = "/hub/", limit
		})
		k := g.start(t, kernels.StartRequest{Workspace: "some@where"})
		var config agentapi.Config
		if err := json.Unmarshal(onlySandbox(t, driver).Spec.AgentConfig, &config); err != nil {
			t.Fatal(err)
		}
		if o := config.OutputLog; o == nil || o.Place != "/hub/w/some@where/v1/sessions/"+k.ID+"/logs" || o.SpoolBytes != spool {
			t.Errorf("with %d bytes of memory the agent is told %+v", limit, o)
		}
	}
}

func TestALostAcknowledgementStoresNothingTwice(t *testing.T) {
	s := newShelf()
	_, _, p, _ := printing(t, s, memory.New())
	p.mu.Lock()
	p.deaf = 1
	p.mu.Unlock()
	p.print("ab")
	p.stored(t, s, "ab")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.puts != 3 {
		t.Errorf("%d attempts, want 3", s.puts)
	}
}

func TestAStorageThatIsDownLosesNothingThatTheAgentHas(t *testing.T) {
	s := newShelf()
	s.fails = 2
	_, _, p, _ := printing(t, s, memory.New())
	p.print("ab")
	p.stored(t, s, "ab")
}

func TestWhatIsPrintedIsStoredByTheGatewayThatComesNext(t *testing.T) {
	s, store := newShelf(), memory.New()
	g, _, p, driver := printing(t, s, store)
	p.print("a")
	p.stored(t, s, "a")
	g.stop()
	p.print("bc")
	start(t, driver, store, withShelf(s))
	p.stored(t, s, "abc")
}

func TestWhatWasPrintedLastIsStoredWhenSomebodyAsks(t *testing.T) {
	s := newShelf()
	g, k, p, _ := printing(t, s, memory.New())
	eventually(t, "the agent answers", func() bool {
		p.mu.Lock()
		p.sealed = "z"
		p.mu.Unlock()
		if err := g.StoreOutput(t.Context(), "w", k.ID); err != nil {
			t.Fatal(err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.seals > 0
	})
	if got, _ := s.kept(); got != "z" {
		t.Errorf("%q is kept", got)
	}
	for _, at := range [][2]string{{"v", k.ID}, {"w", "x"}} {
		if err := g.StoreOutput(t.Context(), at[0], at[1]); !errors.Is(err, kernels.ErrNotFound) {
			t.Errorf("of workspace %s kernel %s: %v", at[0], at[1], err)
		}
	}
	s.mu.Lock()
	s.fails = 1
	s.mu.Unlock()
	p.mu.Lock()
	p.sealed = "y"
	p.mu.Unlock()
	if err := g.StoreOutput(t.Context(), "w", k.ID); !errors.Is(err, kernels.ErrAgent) {
		t.Errorf("with a storage that fails: %v", err)
	}
}

// An agent that always says that there are parts, and has none, is not asked in a tight
// loop.
func TestAnAgentThatLiesAboutPartsCostsLittle(t *testing.T) {
	s := newShelf()
	_, _, p, _ := printing(t, s, memory.New())
	var mu sync.Mutex
	asked := 0
	p.agent.Handle("GET /v1/log/parts", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		asked++
		mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	})
	began := time.Now()
	p.agent.Update(func(st *agentapi.Status) { st.LogParts = 1 << 40 })
	eventually(t, "it is asked again", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return asked >= 2
	})
	if waited := time.Since(began); waited < 900*time.Millisecond {
		t.Errorf("it was asked again after %v", waited)
	}
}

func TestAKernelThatIsStartedAgainHasARunOfItsOwn(t *testing.T) {
	s := newShelf()
	g, k, p, driver := printing(t, s, memory.New())
	p.print("a")
	p.stored(t, s, "a")
	driver.Kill(onlySandbox(t, driver).Spec.ID, sandboxes.Exit{Code: 1})
	eventually(t, "it is dead", func() bool {
		found, err := g.Get(t.Context(), "w", k.ID)
		return err == nil && found.ExecutionState == "dead"
	})
	if _, err := g.Restart(t.Context(), "w", k.ID); err != nil {
		t.Fatal(err)
	}
	p = newPrinter(driver.Agent(onlySandbox(t, driver).Spec.ID))
	p.print("b")
	eventually(t, "all is stored", func() bool { return p.waiting() == 0 })
	if _, runs := s.kept(); len(runs) != 2 {
		t.Errorf("the parts are of %d runs", len(runs))
	}
}

func TestAGatewayThatKeepsNoOutputAnyMoreHasAgentsForgetIt(t *testing.T) {
	s, store := newShelf(), memory.New()
	g, _, p, driver := printing(t, s, store)
	p.print("a")
	p.stored(t, s, "a")
	g.stop()
	p.print("bc")
	start(t, driver, store)
	p.stored(t, s, "a")
	p.print("d")
	p.stored(t, s, "a")
}

// While the storage is down the end of a kernel does not wait for it.
func TestWhatCannotBeStoredIsGivenUpAtTheEndOfItsKernel(t *testing.T) {
	s := newShelf()
	s.fails = 1 << 30
	g, k, p, _ := printing(t, s, memory.New())
	p.print("a")
	eventually(t, "the storage fails", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.puts > 0
	})
	p.agent.Handle("POST /v1/kernel/shutdown", func(w http.ResponseWriter, r *http.Request) {
		for p.waiting() > 0 && r.Context().Err() == nil { // as agents do
			time.Sleep(time.Millisecond)
		}
		w.WriteHeader(http.StatusNoContent)
	})
	if err := g.Shutdown(t.Context(), "w", k.ID); err != nil {
		t.Fatal(err)
	}
	if p.waiting() > 0 {
		t.Error("the end of the kernel waited for the storage")
	}
}

// Agents that begin a part and send nothing more cost nobody but their owners a place.
func TestAgentsThatDoNotSendWhatTheySayKeepNoOthersOutput(t *testing.T) {
	s, driver := newShelf(), sandboxtest.NewFake(t)
	g := start(t, driver, memory.New(), withShelf(s))
	var mu sync.Mutex
	hanging := 0
	add := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		hanging += n
	}
	const owners, each = 5, 2
	for i := range owners * each {
		k := g.start(t, kernels.StartRequest{Owner: fmt.Sprint("eve", i%owners), Own: true})
		agent := driver.Agent(sandboxOf(t, driver, k).Spec.ID)
		agent.Handle("GET /v1/log/parts", func(w http.ResponseWriter, r *http.Request) {
			add(1)
			defer add(-1)
			line, _ := json.Marshal(agentapi.OutputLogPart{Number: 1, Bytes: 1, Size: 1 << 20})
			_, _ = fmt.Fprintf(w, "%s\n", line)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		})
		agent.Update(func(st *agentapi.Status) { st.LogParts = 1 })
	}
	eventually(t, "all of them hang", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return hanging == owners*each
	})
	k := g.start(t, kernels.StartRequest{Owner: "ann", Own: true})
	p := newPrinter(driver.Agent(sandboxOf(t, driver, k).Spec.ID))
	p.print("ab")
	p.stored(t, s, "ab")
}

func sandboxOf(t *testing.T, driver sandboxes.Driver, k kernels.Kernel) sandboxes.Sandbox {
	t.Helper()
	list, err := driver.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if s.Spec.Labels["kernel"] == k.ID {
			return s
		}
	}
	t.Fatalf("kernel %s has no sandbox", k.ID)
	return sandboxes.Sandbox{}
}

// nowhere is where parts are put that nobody reads.
type nowhere struct{}

func (nowhere) Put(context.Context, string, outputlog.Part, []byte, []string) error { return nil }

// A kernel that prints what cannot be compressed, without end, gives the storage no more
// than its owner's share.
func TestWhatComesWithoutEndIsStoredAtABoundedPace(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	g := start(t, driver, memory.New(), func(o *kernels.Options) { o.OutputLogs = nowhere{} })
	k := g.start(t, kernels.StartRequest{Owner: "eve", Own: true})
	agent := driver.Agent(sandboxOf(t, driver, k).Spec.ID)
	const size, most = 5 << 20, 24 // 120 MiB: 64 at once, the others in 3.5 s
	content, done := make([]byte, size), make(chan struct{})
	var mu sync.Mutex
	given := int64(0)
	agent.Handle("GET /v1/log/parts", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		given++
		n := given
		mu.Unlock()
		if n == most {
			close(done)
		}
		line, _ := json.Marshal(agentapi.OutputLogPart{Number: n, Bytes: size, Size: size})
		_, _ = w.Write(append(line, '\n'))
		_, _ = w.Write(content)
	})
	for n := range most + 2 {
		agent.Handle(fmt.Sprint("DELETE /v1/log/parts/", n), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	}
	began := time.Now()
	agent.Update(func(st *agentapi.Status) { st.LogParts = 1 })
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("the parts are not fetched")
	}
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("%d MiB were taken in %v", most*size>>20, took)
	}
}
