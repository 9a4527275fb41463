// Relay is the least that a server of Jupyter kernels can be, for bench to compare
// with: WebSockets in the v1 encoding on one side, ZeroMQ on the other, on the
// sockets and encodings that kernelgw's agent uses. It has no event log, no
// gateway, no sandbox, no acknowledgement and no limits: a client that does not
// read stops its kernel, and one that is away misses everything. It serves one
// token on the loopback, and starts whichever kernel it was given.
//
//	relay -token TOKEN KERNEL -f {connection_file}
package main

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/gorilla/websocket"

	"kernelgw/jupyter"
	"kernelgw/jupyter/wsproto"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "relay:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("relay", flag.ContinueOnError)
	token := flags.String("token", "", "what requests must carry")
	if err := flags.Parse(args); err != nil {
		return err
	}
	r := &relay{token: *token, argv: flags.Args(), kernels: map[string]*kernel{}}
	defer r.close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("http://%s/\n", l.Addr())
	server := &http.Server{Handler: r.routes()}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

// relay is the server.
type relay struct {
	// set at construction
	token string
	argv  []string // of each kernel

	mu      sync.Mutex
	kernels map[string]*kernel // guarded by mu
}

func (r *relay) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range r.kernels {
		k.close()
	}
}

func (r *relay) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "{}") })
	mux.HandleFunc("POST /api/kernels", r.start)
	mux.HandleFunc("DELETE /api/kernels/{id}", r.end)
	mux.HandleFunc("GET /api/kernels/{id}/channels", r.channels)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, given, _ := strings.Cut(req.Header.Get("Authorization"), " ")
		if subtle.ConstantTimeCompare([]byte(given), []byte(r.token)) != 1 {
			http.Error(w, "Forbidden", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, req)
	})
}

func (r *relay) start(w http.ResponseWriter, req *http.Request) {
	k, err := startKernel(req.Context(), r.argv)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	id := jupyter.NewID()
	r.mu.Lock()
	r.kernels[id] = k
	r.mu.Unlock()
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(map[string]string{"id": id}) // an error shows at the client
}

// take returns a kernel, and forgets it when it is to go.
func (r *relay) take(w http.ResponseWriter, req *http.Request, remove bool) *kernel {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := req.PathValue("id")
	k := r.kernels[id]
	if k == nil {
		http.NotFound(w, req)
	}
	if remove {
		delete(r.kernels, id)
	}
	return k
}

func (r *relay) end(w http.ResponseWriter, req *http.Request) {
	if k := r.take(w, req, true); k != nil {
		k.close()
		w.WriteHeader(http.StatusNoContent)
	}
}

// channels relays until the client or the kernel has gone.
func (r *relay) channels(w http.ResponseWriter, req *http.Request) {
	k := r.take(w, req, false)
	if k == nil {
		return
	}
	upgrader := websocket.Upgrader{Subprotocols: []string{wsproto.Subprotocol}}
	ws, err := upgrader.Upgrade(w, req, nil)
	if err != nil {
		return
	}
	s := newSocket(ws.NetConn())
	var writer sync.WaitGroup
	writer.Go(s.writeLoop)
	k.attach(s)
	for {
		messageType, payload, err := ws.ReadMessage()
		if err != nil {
			break
		}
		m, err := wsproto.Decode(wsproto.V1, messageType == websocket.BinaryMessage, payload)
		if err != nil || k.client.Send(&m) != nil {
			break
		}
	}
	k.detach(s)
	s.close()
	writer.Wait()
}
