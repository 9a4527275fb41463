package delivery

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"kernelgw/auth/token"
	"kernelgw/jupyter/jupytertest"
	"kernelgw/kernelgw"
	"kernelgw/kernelgw/kernels"
	"kernelgw/kernelgw/registry/memory"
	"kernelgw/kernelgw/telemetry"
	"kernelgw/sandboxes"
	"kernelgw/sandboxes/agent"
	"kernelgw/sandboxes/agentapi"
)

const (
	kernelID   = "0b6a5a1e-6d0c-4a58-9c6e-2f6a7f3f9f10"
	userToken  = "u5er0123456789abcdef0123456789abcd"
	agentToken = "agent0123456789abcdef0123456789abc"

	// patience is for what must come; nothing waits for it to pass.
	patience = time.Minute
)

// reporter is what a test reports to, a testing.TB or a rapid.T.
type reporter interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
}

// world is an agent with a kernel, the line to it, and the gateway of now.
type world struct {
	t       reporter
	line    *line
	agent   *agent.Agent
	gateway *gateway // changed under gates
	gates   sync.RWMutex
	conns   []*connection // all that were ever opened
	seen    atomic.Uint64 // the highest number of a message of the kernel that any client got

	transcript string
	log        *record
	logger     *slog.Logger
	ending     sync.WaitGroup // gateways that are no longer
}

// record is a log that is written by several, and shown when a test fails.
type record struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(p)
}

// newWorld starts everything. The caller ends it by close.
func newWorld(t reporter, logBytes int64) (w *world, end func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "delivery") // short enough for a socket
	if err != nil {
		t.Fatalf("%v", err)
	}
	w = &world{t: t, transcript: filepath.Join(dir, "transcript"), log: &record{}}
	w.logger = slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	home := filepath.Join(dir, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatalf("%v", err)
	}
	socket := filepath.Join(dir, "s")
	l, err := agentapi.ListenUnix(socket)
	if err != nil {
		t.Fatalf("%v", err)
	}
	spec := jupytertest.Spec(fakeKernel)
	spec.Env = map[string]string{jupytertest.TranscriptEnv: w.transcript}
	w.agent, err = agent.New(agent.Options{
		Config:   agentapi.Config{Token: agentToken, KernelID: kernelID, KernelName: "fake", Spec: spec, LogBytes: logBytes},
		Listener: l, Home: home, RuntimeDir: home, Log: w.logger,
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := w.agent.Run(ctx); err != nil {
			t.Errorf("the agent: %v", err)
		}
	}()
	end = func() {
		for _, c := range w.conns {
			c.reset()
		}
		w.gateway.kill()
		w.ending.Wait()
		w.line.close()
		stop()
		<-ended
		if t.Failed() {
			t.Logf("log:\n%s", w.log.b.Bytes())
		}
		os.RemoveAll(dir)
	}
	if w.line, err = newLine(func(ctx context.Context) (net.Conn, error) { return agentapi.DialUnix(ctx, socket) }); err != nil {
		t.Fatalf("%v", err)
	}
	w.until("the kernel is ready", func() bool { return w.agent.Status().Ready })
	w.gateway = w.newGateway()
	return w, end
}

// until waits for a state that no channel tells of.
func (w *world) until(what string, is func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("it is never so that %s: the agent says %+v", what, w.agent.Status())
		}
	}
}

// said is the kernel's transcript: all that clients can have got.
func (w *world) said() []jupytertest.Said {
	w.t.Helper()
	b, err := os.ReadFile(w.transcript)
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	var all []jupytertest.Said
	for lines := json.NewDecoder(bytes.NewReader(b)); ; {
		var s jupytertest.Said
		if err := lines.Decode(&s); err == io.EOF {
			return all
		} else if err != nil {
			w.t.Fatalf("the transcript: %v", err)
		}
		all = append(all, s)
	}
}

// oneKernel is the only kernel that there is, at the end of a line. Nothing else
// of package kernels takes part in delivery.
type oneKernel struct {
	kernelgw.Kernels
	at sandboxes.Endpoint
}

// Ready implements kernelgw.Kernels.
func (k *oneKernel) Ready() bool { return true }

// UsedBy implements kernelgw.Kernels.
func (k *oneKernel) UsedBy(context.Context, string, string, string) error { return nil }

// Session implements kernelgw.Kernels.
func (k *oneKernel) Session(_ context.Context, _, id string) (kernels.Session, error) {
	return kernels.Session{}, fmt.Errorf("%w: %s", kernels.ErrSessionNotFound, id)
}

// Connect implements kernelgw.Kernels.
func (k *oneKernel) Connect(context.Context, string, string) (kernels.Connection, error) {
	return kernels.Connection{
		Agent: k.at, Token: agentToken, Close: func() {},
		Dead: func(ctx context.Context) (string, bool) { <-ctx.Done(); return "", false },
	}, nil
}

// ConnectLog implements kernelgw.Kernels.
func (k *oneKernel) ConnectLog(ctx context.Context, workspace, id string) (kernels.Connection, error) {
	return k.Connect(ctx, workspace, id)
}

// gateway is one life of a gateway.
type gateway struct {
	w      *world
	server *kernelgw.Server
	front  *front
	users  *token.Authenticator
	served chan error
	once   sync.Once
}

// front is where a gateway listens. It knows all connections, which end with the
// process of a gateway that is killed.
type front struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

// Accept implements net.Listener.
func (f *front) Accept() (net.Conn, error) {
	conn, err := f.Listener.Accept()
	if err != nil {
		return nil, err
	}
	narrow(conn)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.conns = append(f.conns, conn)
	return conn, nil
}

func (f *front) end() {
	f.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, conn := range f.conns {
		conn.Close()
	}
}

func (w *world) newGateway() *gateway {
	w.t.Helper()
	store := memory.New()
	users, err := token.New(token.Options{
		Users: []token.User{token.Single(userToken)}, Store: store, Log: w.logger,
	})
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	server, err := kernelgw.New(kernelgw.Options{
		Users: users, Log: w.logger, Metrics: telemetry.NewMetrics(),
		Kernels: &oneKernel{at: sandboxes.Endpoint{Network: "tcp", Address: w.line.listener.Addr().String()}},
	})
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	g := &gateway{w: w, server: server, users: users, front: &front{Listener: l}, served: make(chan error, 1)}
	go func() { g.served <- server.Serve(g.front) }()
	return g
}

// url is the address of a path of the gateway.
func (g *gateway) url(scheme, path string) string {
	return scheme + "://" + g.front.Addr().String() + path
}

// kill ends a gateway as kill -9 does: its connections are gone at once, on both
// sides, and nothing is said.
func (g *gateway) kill() {
	g.front.end()
	g.w.line.cut()
	g.close()
}

// close has the gateway end in its own time. Who waits for its end waits for
// world.ending.
func (g *gateway) close() {
	g.once.Do(func() {
		g.w.ending.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := g.server.Drain(ctx); err != nil {
				g.w.t.Errorf("drain: %v", err)
			}
			<-g.served // that the listener was closed is no news
			g.users.Close()
		})
	})
}

// replace puts a new gateway in the place of that of now.
func (w *world) replace() {
	next := w.newGateway()
	w.gates.Lock()
	defer w.gates.Unlock()
	w.gateway = next
}

// killGateway is kill -9 and a start.
func (w *world) killGateway() {
	w.gateway.kill()
	w.replace()
}

// drainGateway is SIGTERM and a start of the next one, after all clients that
// answer have gone. Of silent ones the agent does not know that yet.
func (w *world) drainGateway(silent int) {
	w.t.Helper()
	old := w.gateway
	old.close()
	w.until("clients have left a gateway that drains", func() bool { return w.agent.Status().Connections <= silent })
	w.replace()
}

// header is what a client sends to be let in.
func header() http.Header { return http.Header{"Authorization": {"token " + userToken}} }
