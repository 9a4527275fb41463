package kernels_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kernelgw/jupyter"
	"kernelgw/kernelgw/kernels"
	"kernelgw/kernelgw/registry/memory"
	"kernelgw/sandboxes/agentapi"
	"kernelgw/sandboxes/sandboxtest"
)

// notebooks are cells by path, which get outputs.
type notebooks struct {
	mu    sync.Mutex
	cells map[string][]string
	fails int // so many times
	asked []string
}

func (n *notebooks) SaveOutputs(_ context.Context, o kernels.NotebookOutputs) (kernels.SavedOutputs, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	saved := kernels.SavedOutputs{Cells: map[string]bool{}}
	asked := fmt.Sprintf("%s/%s of %s own=%v", o.Workspace, o.Path, o.Owner, o.Own)
	if o.Replaces != "" {
		asked += " replaces " + o.Replaces
	}
	for _, c := range o.Cells {
		asked += fmt.Sprintf(" %s=%s", c.Cell, c.Outputs)
		if slices.Contains(n.cells[o.Path], c.Cell) {
			saved.Cells[c.Cell] = true
			saved.Version = fmt.Sprint("v", len(n.asked))
		}
	}
	n.asked = append(n.asked, asked)
	if n.fails > 0 {
		n.fails--
		return kernels.SavedOutputs{}, errors.New("the storage does not answer")
	}
	return saved, nil
}

func (n *notebooks) FindCells(_ context.Context, o kernels.NotebookOutputs) (map[string]bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	found := map[string]bool{}
	for _, c := range o.Cells {
		if slices.Contains(n.cells[o.Path], c.Cell) {
			found[c.Cell] = true
		}
	}
	return found, nil
}

func (n *notebooks) wanted() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.asked, "\n")
}

// cellsOf makes an agent have unsaved cells, until they are saved. What was told of
// them is in order of the calls.
func cellsOf(agent *sandboxtest.Agent, cells ...agentapi.UnsavedCell) (told func() string) {
	var mu sync.Mutex
	var all []string
	agent.Handle("GET /v1/unsaved", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		_ = json.NewEncoder(w).Encode(cells)
	})
	agent.Handle("POST /v1/unsaved", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		var saved []agentapi.SavedCell
		_ = json.NewDecoder(r.Body).Decode(&saved)
		for _, s := range saved {
			all = append(all, fmt.Sprint(s.Run, " to ", s.Until, " drop=", s.Drop))
			cells = slices.DeleteFunc(cells, func(c agentapi.UnsavedCell) bool { return c.Run == s.Run })
		}
		agent.Update(func(st *agentapi.Status) { st.Unsaved = len(cells) })
		w.WriteHeader(http.StatusNoContent)
	})
	agent.Update(func(st *agentapi.Status) { st.Unsaved = len(cells) })
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		slices.Sort(all)
		return strings.Join(all, "\n")
	}
}

func unsaved(run uint64, cell string) agentapi.UnsavedCell {
	return agentapi.UnsavedCell{Run: run, Cell: cell, SourceSHA256: strings.Repeat("0", 64), Outputs: json.RawMessage(`["o"]`), Until: 10 * run}
}

// agentOf returns the agent of a kernel.
func agentOf(t *testing.T, driver *sandboxtest.Fake, kernel string) *sandboxtest.Agent {
	t.Helper()
	list, err := driver.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if s.Spec.Labels["kernel"] == kernel {
			return driver.Agent(s.Spec.ID)
		}
	}
	t.Fatalf("kernel %s has no sandbox", kernel)
	return nil
}

// withSessions starts a gateway with a kernel that has sessions of these paths.
func withSessions(t *testing.T, n *notebooks, paths ...string) (*gateway, kernels.Kernel, *sandboxtest.Agent) {
	t.Helper()
	driver := sandboxtest.NewFake(t)
	g := start(t, driver, memory.New(), func(o *kernels.Options) { o.Notebooks = n })
	k := g.start(t, kernels.StartRequest{Owner: "ann", Own: true})
	for _, path := range paths {
		_, err := g.CreateSession(t.Context(), kernels.SessionRequest{Workspace: "w", Path: path, Type: "notebook", KernelID: k.ID})
		if err != nil {
			t.Fatal(err)
		}
	}
	return g, k, driver.Agent(onlySandbox(t, driver).Spec.ID)
}

func TestUnsavedOutputsGoToTheNotebookThatHasTheCell(t *testing.T) {
	n := &notebooks{cells: map[string][]string{"one.ipynb": {"a"}, "two.ipynb": {"b"}}}
	_, _, agent := withSessions(t, n, "one.ipynb", "two.ipynb")
	told := cellsOf(agent, unsaved(1, "a"), unsaved(2, "b"), unsaved(3, "gone"))
	want := "1 to 10 drop=false\n2 to 20 drop=false\n3 to 30 drop=true"
	eventually(t, "the agent is told", func() bool { return told() == want })
	asked := `w/one.ipynb of ann own=true a=["o"]
w/two.ipynb of ann own=true b=["o"]`
	if n.wanted() != asked {
		t.Errorf("asked for\n%s\nwant\n%s", n.wanted(), asked)
	}
}

func TestUnsavedOutputsOfACellThatTwoNotebooksHaveGoToNone(t *testing.T) {
	n := &notebooks{cells: map[string][]string{"one.ipynb": {"a", "b"}, "copy.ipynb": {"a"}}}
	_, _, agent := withSessions(t, n, "one.ipynb", "copy.ipynb")
	told := cellsOf(agent, unsaved(1, "a"), unsaved(2, "b"))
	eventually(t, "the agent is told", func() bool { return told() == "1 to 10 drop=true\n2 to 20 drop=false" })
	if got, want := n.wanted(), `w/one.ipynb of ann own=true b=["o"]`; got != want {
		t.Errorf("asked for %s, want %s", got, want)
	}
}

func TestUnsavedOutputsWithoutASessionStayInTheLog(t *testing.T) {
	n := &notebooks{}
	_, _, agent := withSessions(t, n)
	told := cellsOf(agent, unsaved(1, "a"))
	eventually(t, "the agent is told", func() bool { return told() == "1 to 10 drop=true" })
	if n.wanted() != "" {
		t.Errorf("asked for %s", n.wanted())
	}
}

func TestOutputsThatCannotBeSavedNowAreSavedLater(t *testing.T) {
	n := &notebooks{cells: map[string][]string{"n.ipynb": {"a"}}, fails: 1}
	_, _, agent := withSessions(t, n, "n.ipynb")
	told := cellsOf(agent, unsaved(1, "a"))
	eventually(t, "the agent is told", func() bool { return told() == "1 to 10 drop=false" })
	if got := strings.Count(n.wanted(), "\n") + 1; got != 2 {
		t.Errorf("%d attempts, want 2", got)
	}
}

func TestOutputsAreSavedByTheGatewayThatComesNext(t *testing.T) {
	driver, store := sandboxtest.NewFake(t), memory.New()
	n := &notebooks{cells: map[string][]string{"n.ipynb": {"a"}}}
	g := start(t, driver, store, func(o *kernels.Options) { o.Notebooks = n })
	if _, err := g.CreateSession(t.Context(), kernels.SessionRequest{Workspace: "w", Path: "n.ipynb", Type: "notebook"}); err != nil {
		t.Fatal(err)
	}
	agent := driver.Agent(onlySandbox(t, driver).Spec.ID)
	g.stop()
	told := cellsOf(agent, unsaved(1, "a"))
	start(t, driver, store, func(o *kernels.Options) { o.Notebooks = n })
	eventually(t, "the agent is told", func() bool { return told() == "1 to 10 drop=false" })
}

func TestOutputsAreSavedBeforeTheirKernelEnds(t *testing.T) {
	n := &notebooks{cells: map[string][]string{"n.ipynb": {"a"}}}
	g, k, agent := withSessions(t, n, "n.ipynb")
	told := cellsOf(agent, unsaved(1, "a"))
	agent.Update(func(st *agentapi.Status) { st.Unsaved = 0 }) // it would be time later
	g.awaitState(t, k.ID, jupyter.Idle)
	if err := g.Shutdown(t.Context(), "w", k.ID); err != nil {
		t.Fatal(err)
	}
	if told() != "1 to 10 drop=false" {
		t.Errorf("told %q", told())
	}
}

func TestAVersionOfARunningCellIsReplacedByTheNextOfThatRun(t *testing.T) {
	n := &notebooks{cells: map[string][]string{"n.ipynb": {"a", "b"}}}
	_, _, agent := withSessions(t, n, "n.ipynb")
	for i, c := range []agentapi.UnsavedCell{
		{Run: 1, Cell: "a", Until: 1, Running: true}, {Run: 1, Cell: "a", Until: 2, Running: true}, {Run: 1, Cell: "a", Until: 3}, // its end
		{Run: 2, Cell: "a", Until: 4, Running: true}, {Run: 3, Cell: "a", Until: 5}, // run again before it ended
	} {
		c.SourceSHA256, c.Outputs = strings.Repeat("0", 64), json.RawMessage("[]")
		told := cellsOf(agent, c)
		eventually(t, fmt.Sprint("the agent is told of save ", i), func() bool { return told() != "" })
	}
	want := `w/n.ipynb of ann own=true a=[]
w/n.ipynb of ann own=true replaces v0 a=[]
w/n.ipynb of ann own=true replaces v1 a=[]
w/n.ipynb of ann own=true a=[]
w/n.ipynb of ann own=true a=[]`
	if n.wanted() != want {
		t.Errorf("asked for\n%s\nwant\n%s", n.wanted(), want)
	}
}

func TestOutputsOfAKernelThatOthersUsedAreNotItsOwnersOwn(t *testing.T) {
	driver, store := sandboxtest.NewFake(t), memory.New()
	n := &notebooks{cells: map[string][]string{"n.ipynb": {"a"}}}
	options := func(o *kernels.Options) { o.Notebooks = n }
	g := start(t, driver, store, options)
	s, err := g.CreateSession(t.Context(), kernels.SessionRequest{Workspace: "w", Owner: "ann", Own: true, Path: "n.ipynb", Type: "notebook"})
	if err != nil {
		t.Fatal(err)
	}
	for _, who := range []string{"ann", "eve", "ann"} {
		if err := g.UsedBy(t.Context(), "w", s.Kernel.ID, who); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.UsedBy(t.Context(), "w", "unknown", "eve"); err != nil {
		t.Error(err)
	}
	g.stop()
	start(t, driver, store, options)
	told := cellsOf(driver.Agent(onlySandbox(t, driver).Spec.ID), unsaved(1, "a"))
	eventually(t, "the agent is told", func() bool { return told() != "" })
	if !strings.Contains(n.wanted(), "of ann own=false") {
		t.Errorf("asked for %s", n.wanted())
	}
}

func TestOutputsOfAKernelThatACapabilityStartedAreNotItsOwnersOwn(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	n := &notebooks{cells: map[string][]string{"n.ipynb": {"a"}}}
	g := start(t, driver, memory.New(), func(o *kernels.Options) { o.Notebooks = n })
	s, err := g.CreateSession(t.Context(), kernels.SessionRequest{Workspace: "w", Owner: "ann", Path: "n.ipynb", Type: "notebook"})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.UsedBy(t.Context(), "w", s.Kernel.ID, "ann"); err != nil {
		t.Fatal(err)
	}
	told := cellsOf(agentOf(t, driver, s.Kernel.ID), unsaved(1, "a"))
	eventually(t, "the agent is told", func() bool { return told() != "" })
	if !strings.Contains(n.wanted(), "of ann own=false") {
		t.Errorf("asked for %s", n.wanted())
	}
}

// Agents that never answer hold up nobody but their owner.
func TestAgentsThatDoNotAnswerHoldUpNoOthers(t *testing.T) {
	driver := sandboxtest.NewFake(t)
	n := &notebooks{cells: map[string][]string{"n.ipynb": {"a"}}}
	g := start(t, driver, memory.New(), func(o *kernels.Options) { o.Notebooks = n })
	var asked atomic.Int32
	for range 10 {
		agent := agentOf(t, driver, g.start(t, kernels.StartRequest{Owner: "eve"}).ID)
		agent.Handle("GET /v1/unsaved", func(_ http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			<-r.Context().Done()
		})
		agent.Update(func(st *agentapi.Status) { st.Unsaved = 1 })
	}
	eventually(t, "agents of the one are asked", func() bool { return asked.Load() > 1 })
	s, err := g.CreateSession(t.Context(), kernels.SessionRequest{Workspace: "w", Owner: "ann", Path: "n.ipynb", Type: "notebook"})
	if err != nil {
		t.Fatal(err)
	}
	told := cellsOf(agentOf(t, driver, s.Kernel.ID), unsaved(1, "a"))
	eventually(t, "another's agent is told", func() bool { return told() == "1 to 10 drop=false" })
}

// An agent that says all the time that there is something is asked less and less.
func TestAnAgentThatHasNothingUnsavedIsNotAskedAllTheTime(t *testing.T) {
	_, _, agent := withSessions(t, &notebooks{}, "n.ipynb")
	cellsOf(agent)
	began := time.Now()
	agent.Update(func(st *agentapi.Status) { st.Unsaved = 1 })
	asked := func() (n int) {
		for _, r := range agent.Requests() {
			if r == "GET /v1/unsaved" {
				n++
			}
		}
		return n
	}
	eventually(t, "the agent is asked", func() bool { return asked() == 3 })
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("asked three times in %v", took)
	}
}

// The agent is as hostile as its kernel.
func TestAgentThatLiesAboutUnsavedCells(t *testing.T) {
	good := unsaved(1, "a")
	long, odd := good, good
	long.Cell, odd.SourceSHA256 = strings.Repeat("c", agentapi.MaxCellID+1), "../.."
	for name, cells := range map[string][]agentapi.UnsavedCell{
		"long id": {long}, "no hash": {odd}, "too many": slices.Repeat([]agentapi.UnsavedCell{good}, agentapi.MaxUnsavedCells+1),
	} {
		n := &notebooks{cells: map[string][]string{"n.ipynb": {"a"}}}
		g, k, agent := withSessions(t, n, "n.ipynb")
		cellsOf(agent, cells...)
		eventually(t, name+": the agent is asked", func() bool { return slices.Contains(agent.Requests(), "GET /v1/unsaved") })
		if err := g.Shutdown(t.Context(), "w", k.ID); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n.wanted() != "" {
			t.Errorf("%s: asked for %.300s", name, n.wanted())
		}
	}
}
