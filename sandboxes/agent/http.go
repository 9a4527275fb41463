package agent

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/jupyter/wsproto"
	"kernelgw/sandboxes/agentapi"
)

// route is one entry of the agent's route table. All need the token.
type route struct {
	method, path string
	handler      func(*Agent, http.ResponseWriter, *http.Request)
}

var routeTable = []route{
	{http.MethodGet, "/v1/status", (*Agent).getStatus},
	{http.MethodGet, "/v1/watch", (*Agent).getWatch},
	{http.MethodPost, "/v1/kernel/shutdown", (*Agent).postShutdown},
	{http.MethodGet, "/v1/usage", (*Agent).getUsage},
}

var kernelRoutes = []route{
	{http.MethodPost, "/v1/kernel/interrupt", (*Agent).postInterrupt},
	{http.MethodPost, "/v1/kernel/restart", (*Agent).postRestart},
	{http.MethodGet, "/v1/channels", (*Agent).getChannels},
	{http.MethodGet, "/v1/unsaved", (*Agent).getUnsaved},
	{http.MethodPost, "/v1/unsaved", (*Agent).postUnsaved},
}

var terminalRoutes = []route{
	{http.MethodGet, "/v1/terminals", (*Agent).getTerminals},
	{http.MethodPost, "/v1/terminals", (*Agent).postTerminals},
	{http.MethodGet, "/v1/terminals/{name}", (*Agent).getTerminal},
	{http.MethodDelete, "/v1/terminals/{name}", (*Agent).deleteTerminal},
	{http.MethodGet, "/v1/terminals/{name}/socket", (*Agent).getTerminalSocket},
}

// Limits of the HTTP server.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	writeTimeout  = 10 * time.Second // for one answer, or one line of a watch
	maxHeader     = 64 << 10
	maxSessionID  = 1 << 10
)

// Pace of a watch.
const (
	watchGap   = 50 * time.Millisecond // at most 20 a second
	watchMinor = time.Second           // for activity and counters
	watchIdle  = 10 * time.Second
)

func (a *Agent) server() *http.Server {
	return &http.Server{
		Handler:           a.handler(),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(a.opts.Log.Handler(), slog.LevelDebug),
	}
}

func (a *Agent) handler() http.Handler {
	mux := http.NewServeMux()
	own := slices.Concat(kernelRoutes, outputRoutes, executionRoutes)
	if a.hub.output != nil {
		own = slices.Concat(own, partRoutes)
	}
	if a.terminals != nil {
		own = slices.Concat(terminalRoutes, convertRoutes)
	}
	if a.files != nil {
		own = slices.Concat(own, fileRoutes)
	}
	for _, r := range slices.Concat(routeTable, own) {
		mux.HandleFunc(r.method+" "+r.path, func(w http.ResponseWriter, req *http.Request) { r.handler(a, w, req) })
	}
	want := sha256.Sum256([]byte(a.opts.Config.Token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// That of the answer before on this connection.
		http.NewResponseController(w).SetWriteDeadline(time.Time{})
		// Before the mux, so that a stranger does not learn what there is.
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		got := sha256.Sum256([]byte(token))
		if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			fail(w, http.StatusUnauthorized, "this needs the agent's token")
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (a *Agent) getStatus(w http.ResponseWriter, _ *http.Request) { answer(w, a.Status()) }
func (a *Agent) getUsage(w http.ResponseWriter, _ *http.Request)  { answer(w, a.Usage()) }

func (a *Agent) getWatch(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	control := http.NewResponseController(w)
	lines := json.NewEncoder(w)
	var shown agentapi.Status
	var written time.Time
	for {
		changed := a.news.wait()
		now := a.Status()
		old := time.Since(written)
		if major(now, shown) || now != shown && old >= watchMinor || old >= watchIdle {
			control.SetWriteDeadline(time.Now().Add(writeTimeout))
			if lines.Encode(now) != nil || control.Flush() != nil {
				return
			}
			shown, written = now, time.Now()
			a.watched.Store(written.UnixNano())
		}
		select {
		case <-r.Context().Done():
			return
		case <-a.over:
			// One line more, so that the watcher knows how it ended.
			if last := a.Status(); last != shown {
				control.SetWriteDeadline(time.Now().Add(writeTimeout))
				lines.Encode(last) // the watcher may be gone
			}
			return
		case <-changed:
			if !sleep(r.Context(), watchGap-time.Since(written)) {
				return
			}
		case <-time.After(watchMinor):
		}
	}
}

// major reports whether more than activity and counters differ.
func major(a, b agentapi.Status) bool {
	a.LastActivity, a.Replayed, a.Dropped = b.LastActivity, b.Replayed, b.Dropped
	return a != b
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (a *Agent) postInterrupt(w http.ResponseWriter, _ *http.Request) {
	if err := a.interrupt(); err != nil {
		fail(w, http.StatusConflict, err.Error())
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (a *Agent) postRestart(w http.ResponseWriter, r *http.Request) {
	// A caller that goes away does not leave a kernel half restarted.
	if err := a.do(context.WithoutCancel(r.Context()), restartKernel); err != nil {
		status := http.StatusInternalServerError
		if errors.Is(err, errOver) {
			status = http.StatusGone
		}
		fail(w, status, err.Error())
		return
	}
	answer(w, a.Status())
}

func (a *Agent) postShutdown(w http.ResponseWriter, r *http.Request) {
	if err := a.do(context.WithoutCancel(r.Context()), shutDown); err != nil && !errors.Is(err, errOver) {
		fail(w, http.StatusInternalServerError, err.Error())
		return
	}
	// The caller may take the sandbox away after the answer.
	<-a.saved
	a.hub.waitForFollowers(closeTime)
	w.WriteHeader(http.StatusNoContent)
}

// The write buffers of idle sockets are shared; messages are collected in
// corkedConn.
var upgrader = websocket.Upgrader{
	ReadBufferSize:  4 << 10,
	WriteBufferSize: 4 << 10,
	WriteBufferPool: &writeBuffers,
	Subprotocols:    []string{wsproto.Subprotocol},
	CheckOrigin:     func(*http.Request) bool { return true }, // the gateway has checked it, and this needs the token
	Error: func(w http.ResponseWriter, _ *http.Request, status int, reason error) {
		fail(w, status, reason.Error())
	},
}

func (a *Agent) getChannels(w http.ResponseWriter, r *http.Request) {
	select {
	case <-a.over:
		fail(w, http.StatusNotFound, errOver.Error())
		return
	default:
	}
	session := r.URL.Query().Get("session_id")
	if len(session) > maxSessionID {
		fail(w, http.StatusBadRequest, "session_id is longer than 1024 bytes")
		return
	}
	var conn *corkedConn
	ws, err := upgrader.Upgrade(&corkingWriter{w, &conn}, r, nil)
	if err != nil {
		return // the upgrader has answered
	}
	newSocket(a.hub, ws, conn, encodingFor(ws.Subprotocol(), session, r)).serve(session)
}

// encodingFor tells what a client can read. jupyter_server's gateway client and
// nbclient behind it take every frame for text (contract, section 3.3).
func encodingFor(subprotocol, session string, r *http.Request) wsproto.Encoding {
	gateway := strings.HasPrefix(r.UserAgent(), "Tornado/") && r.Header.Get("Origin") == ""
	switch {
	case subprotocol == wsproto.Subprotocol:
		return wsproto.V1
	case gateway || session == "":
		return wsproto.LegacyText
	}
	return wsproto.Legacy
}

func answer(w http.ResponseWriter, v any) {
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) // the caller may be gone
}

func fail(w http.ResponseWriter, status int, message string) {
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"message": message})
}
