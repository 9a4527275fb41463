package kernelgw_test

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"

	"kernelgw/jupyter"
	"kernelgw/kernelgw/kernels"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agentapi"
)

// fakeKernels is a double of *kernels.Manager: tables in memory, and an agent
// that the test plays.
type fakeKernels struct {
	mu       sync.Mutex
	ready    bool
	fail     error  // answered by every method, when set
	explode  any    // panicked with by List, when set
	block    func() // called by Get, when set
	kernels  map[string]kernels.Kernel
	sessions map[string]kernels.Session
	starts   []kernels.StartRequest
	used     []string // "KERNEL by WHO"
	shells   []shell
	agent    sandboxes.Endpoint // where Connect sends
	hold     bool               // Connect waits for its context
	held     int                // Connects that wait
	refuse   error              // answered by Connect
	closed   int                // Connections given back
	dead     chan struct{}      // closed when the kernel dies
	reason   string
	governed governed
	files    fs.FS
	converts []kernels.ConvertRequest
	sent     string           // the notebook that was converted last
	document kernels.Document // answered by Convert, with made as its content
	made     string
	released int // contents closed
	executor *executor
	printed  func(kernel string) error // called by StoreOutput, when set

	silent            map[string]bool // kernels whose agents do not answer Usage
	asking, mostAsked int             // calls of Usage under way, and the most of them at once
}

func newFakeKernels() *fakeKernels {
	return &fakeKernels{
		ready: true, kernels: map[string]kernels.Kernel{}, sessions: map[string]kernels.Session{}, dead: make(chan struct{}),
		executor: newExecutor(),
		files: fstest.MapFS{
			"kernel.json":    {Data: []byte(`{}`)},
			"kernel.js":      {Data: []byte(`alert(1)`)},
			"logo-64x64.png": {Data: []byte("\x89PNG\r\n\x1a\nrest")},
			"logo-svg.svg":   {Data: []byte(`<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>`)},
			"logo-evil.png":  {Data: []byte("/etc/passwd"), Mode: fs.ModeSymlink | 0o777},
		},
	}
}

// set changes the double under its lock.
func (f *fakeKernels) set(change func(f *fakeKernels)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeKernels) StoreOutput(_ context.Context, workspace, id string) error {
	f.mu.Lock()
	k, ok := f.kernels[id]
	printed := f.printed
	f.mu.Unlock()
	if !ok || k.Workspace != workspace {
		return fmt.Errorf("%w: %s", kernels.ErrNotFound, id)
	}
	if printed == nil {
		return nil
	}
	return printed(id)
}

func (f *fakeKernels) Ready() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ready
}

func (f *fakeKernels) Specs(context.Context, string) (kernels.Specs, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return kernels.Specs{Default: "python3", Specs: map[string]sandboxes.Kernelspec{
		"python3": {
			Name: "python3", Files: f.files,
			JSON: []byte(`{"argv":["python3","-m","ipykernel_launcher","-f","{connection_file}"],"display_name":"Python 3","language":"python","metadata":{"debugger":true}}`),
		},
		"broken":  {Name: "broken", JSON: []byte(`[]`)},
		"../evil": {Name: "../evil", JSON: []byte(`{"argv":["x"]}`)},
	}}, f.fail
}

func (f *fakeKernels) Start(_ context.Context, r kernels.StartRequest) (kernels.Kernel, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.start(r)
}

func (f *fakeKernels) start(r kernels.StartRequest) (kernels.Kernel, error) {
	if f.fail != nil {
		return kernels.Kernel{}, f.fail
	}
	if r.Name != "" && r.Name != "python3" && r.Name != "python" {
		return kernels.Kernel{}, fmt.Errorf("%w: %s", kernels.ErrUnknownSpec, r.Name)
	}
	id := r.KernelID
	if id == "" {
		id = uuid.NewString()
	}
	if _, ok := f.kernels[id]; ok {
		return kernels.Kernel{}, fmt.Errorf("%w: %s", kernels.ErrExists, id)
	}
	f.starts = append(f.starts, r)
	k := kernels.Kernel{
		ID: id, Workspace: r.Workspace, Name: "python3", ExecutionState: jupyter.Starting,
		LastActivity: time.Date(2026, 11, 24, 6, 0, 0, 0, time.FixedZone("x", 3600)),
	}
	f.kernels[id] = k
	return k, nil
}

func (f *fakeKernels) List(_ context.Context, workspace string) ([]kernels.Kernel, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.explode != nil {
		panic(f.explode)
	}
	var list []kernels.Kernel
	for _, k := range f.kernels {
		if k.Workspace == workspace {
			list = append(list, k)
		}
	}
	return list, f.fail
}

func (f *fakeKernels) Get(_ context.Context, workspace, id string) (kernels.Kernel, error) {
	f.mu.Lock()
	block := f.block
	f.mu.Unlock()
	if block != nil {
		block()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.find(workspace, id)
}

func (f *fakeKernels) Usage(ctx context.Context, workspace, id string) (agentapi.Usage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asking++
	f.mostAsked = max(f.mostAsked, f.asking)
	defer func() { f.asking-- }()
	if f.silent[id] {
		f.mu.Unlock()
		<-ctx.Done()
		f.mu.Lock()
		return agentapi.Usage{}, ctx.Err()
	}
	if _, err := f.find(workspace, id); err != nil {
		return agentapi.Usage{}, err
	}
	return agentapi.Usage{CPUSeconds: 1.5, MemoryBytes: 64 << 20}, nil
}

func (f *fakeKernels) find(workspace, id string) (kernels.Kernel, error) {
	if f.fail != nil {
		return kernels.Kernel{}, f.fail
	}
	k, ok := f.kernels[id]
	if !ok || k.Workspace != workspace {
		return kernels.Kernel{}, fmt.Errorf("%w: %s", kernels.ErrNotFound, id)
	}
	return k, nil
}

func (f *fakeKernels) Interrupt(ctx context.Context, workspace, id string) error {
	_, err := f.Get(ctx, workspace, id)
	return err
}

func (f *fakeKernels) Restart(ctx context.Context, workspace, id string) (kernels.Kernel, error) {
	return f.Get(ctx, workspace, id)
}

func (f *fakeKernels) Shutdown(_ context.Context, workspace, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.find(workspace, id); err != nil {
		return err
	}
	delete(f.kernels, id)
	return nil
}

func (f *fakeKernels) UsedBy(_ context.Context, _, id, who string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used = append(f.used, id+" by "+who)
	return nil
}

func (f *fakeKernels) Connect(ctx context.Context, workspace, id string) (kernels.Connection, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.find(workspace, id); err != nil {
		return kernels.Connection{}, err
	}
	if f.refuse != nil {
		return kernels.Connection{}, f.refuse
	}
	if f.hold {
		f.held++
		f.mu.Unlock()
		<-ctx.Done()
		f.mu.Lock()
		return kernels.Connection{}, fmt.Errorf("%w: still starting", kernels.ErrNotReady)
	}
	return kernels.Connection{
		Agent: f.agent, Token: "agent-token",
		Close: func() { f.set(func(f *fakeKernels) { f.closed++ }) },
		Dead: func(ctx context.Context) (string, bool) {
			select {
			case <-f.dead:
				return f.reason, true
			case <-ctx.Done():
				return "", false
			}
		},
	}, nil
}

func (f *fakeKernels) ConnectLog(ctx context.Context, workspace, id string) (kernels.Connection, error) {
	return f.Connect(ctx, workspace, id)
}

func (f *fakeKernels) Sessions(_ context.Context, workspace string) ([]kernels.Session, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []kernels.Session
	for _, s := range f.sessions {
		if s.Workspace == workspace {
			list = append(list, s)
		}
	}
	return list, f.fail
}

func (f *fakeKernels) Session(_ context.Context, workspace, id string) (kernels.Session, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.findSession(workspace, id)
}

func (f *fakeKernels) findSession(workspace, id string) (kernels.Session, error) {
	s, ok := f.sessions[id]
	if !ok || s.Workspace != workspace {
		return kernels.Session{}, fmt.Errorf("%w: %s", kernels.ErrSessionNotFound, id)
	}
	return s, f.fail
}

func (f *fakeKernels) CreateSession(_ context.Context, r kernels.SessionRequest) (kernels.Session, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.sessions {
		if s.Workspace == r.Workspace && s.Path == r.Path {
			return s, nil
		}
	}
	k, ok := f.kernels[r.KernelID]
	if !ok {
		var err error
		if k, err = f.start(kernels.StartRequest{Workspace: r.Workspace, Owner: r.Owner, Own: r.Own, KernelID: r.KernelID, Name: r.KernelName}); err != nil {
			return kernels.Session{}, err
		}
	}
	s := kernels.Session{ID: uuid.NewString(), Workspace: r.Workspace, Path: r.Path, Name: r.Name, Type: r.Type, Kernel: k}
	f.sessions[s.ID] = s
	return s, nil
}

func (f *fakeKernels) UpdateSession(_ context.Context, workspace, id string, u kernels.SessionUpdate) (kernels.Session, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.findSession(workspace, id)
	if err != nil {
		return s, err
	}
	if u.KernelID != "" {
		k, ok := f.kernels[u.KernelID]
		if !ok {
			return s, fmt.Errorf("%w: No such kernel: %s", kernels.ErrInvalid, u.KernelID)
		}
		s.Kernel = k
	}
	for to, from := range map[*string]*string{&s.Path: u.Path, &s.Name: u.Name, &s.Type: u.Type} {
		if from != nil {
			*to = *from
		}
	}
	f.sessions[id] = s
	return s, nil
}

func (f *fakeKernels) DeleteSession(_ context.Context, workspace, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.findSession(workspace, id)
	if err != nil {
		return err
	}
	delete(f.sessions, id)
	delete(f.kernels, s.Kernel.ID)
	return nil
}

// agent serves a kernel agent's WebSocket; handle plays it.
func agent(t *testing.T, handle func(ws *websocket.Conn, r *http.Request)) sandboxes.Endpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveAgent(t, l, handle)
	return sandboxes.Endpoint{Network: "tcp", Address: l.Addr().String()}
}

// serveAgent is agent on a listener.
func serveAgent(t *testing.T, l net.Listener, handle func(ws *websocket.Conn, r *http.Request)) {
	t.Helper()
	var running sync.WaitGroup
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		running.Add(1)
		defer running.Done()
		u := websocket.Upgrader{
			CheckOrigin:  func(*http.Request) bool { return true },
			Subprotocols: []string{"v1.kernel.websocket.jupyter.org"},
		}
		ws, err := u.Upgrade(w, r, nil)
		if err != nil {
			t.Errorf("agent: %v", err)
			return
		}
		defer ws.Close()
		handle(ws, r)
	})}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		<-served
		running.Wait()
	})
}

// echo returns every message, as an agent.
func echo(ws *websocket.Conn, _ *http.Request) {
	for {
		kind, data, err := ws.ReadMessage()
		if err != nil {
			return
		}
		if ws.WriteMessage(kind, data) != nil {
			return
		}
	}
}

func (f *fakeKernels) Exporters(context.Context, string) (map[string]agentapi.Exporter, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return nil, f.fail
	}
	return map[string]agentapi.Exporter{"html": {Mimetype: "text/html"}, "custom": {}}, nil
}

func (f *fakeKernels) Convert(ctx context.Context, r kernels.ConvertRequest, open func(context.Context) (io.ReadCloser, error)) (kernels.Document, error) {
	notebook, err := open(ctx)
	if err != nil {
		return kernels.Document{}, err
	}
	defer notebook.Close()
	sent, err := io.ReadAll(notebook)
	if err != nil {
		return kernels.Document{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return kernels.Document{}, f.fail
	}
	f.converts, f.sent = append(f.converts, r), string(sent)
	d := f.document
	d.Content = releasing{strings.NewReader(f.made), func() { f.set(func(f *fakeKernels) { f.released++ }) }}
	return d, nil
}

// releasing is a content that tells of its Close.
type releasing struct {
	io.Reader
	closed func()
}

func (r releasing) Close() error { r.closed(); return nil }
