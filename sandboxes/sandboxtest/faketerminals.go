package sandboxtest

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"kernelgw/sandboxes/agentapi"
)

// terminalsAPI answers the routes of terminals, of an agent whose configuration
// names no kernel. A terminal of the double says "setup", and then all that is
// typed as its output; typing "exit" and a carriage return ends it. It reports
// whether the route is one of these.
func (a *Agent) terminalsAPI(w http.ResponseWriter, r *http.Request) bool {
	rest, ok := strings.CutPrefix(r.URL.Path, "/v1/terminals")
	if !ok || a.config.HasKernel() {
		return false
	}
	name, socket := strings.CutSuffix(strings.TrimPrefix(rest, "/"), "/socket")
	switch {
	case rest == "" && r.Method == http.MethodGet:
		a.answer(w, a.Terminals())
	case rest == "" && r.Method == http.MethodPost:
		a.startTerminal(w, r)
	case !a.hasTerminal(name):
		http.NotFound(w, r)
	case socket:
		a.talk(w, r, func(ws *websocket.Conn, _ *http.Request) { a.playTerminal(ws, name) })
	case r.Method == http.MethodDelete:
		a.endTerminal(name)
		w.WriteHeader(http.StatusNoContent)
	default:
		a.answer(w, agentapi.Terminal{Name: name, LastActivity: time.Now().UTC()})
	}
	return true
}

// Terminals lists the terminals of the agent.
func (a *Agent) Terminals() []agentapi.Terminal {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := []agentapi.Terminal{}
	for _, name := range a.terminals {
		list = append(list, agentapi.Terminal{Name: name, LastActivity: time.Now().UTC()})
	}
	return list
}

func (a *Agent) hasTerminal(name string) bool {
	for _, t := range a.Terminals() {
		if t.Name == name {
			return true
		}
	}
	return false
}

func (a *Agent) startTerminal(w http.ResponseWriter, r *http.Request) {
	var asked agentapi.TerminalRequest
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	most := a.config.MaxTerminals
	if most == 0 {
		most = agentapi.DefaultMaxTerminals
	}
	if asked.Name == "" {
		for n := 1; asked.Name == "" || a.hasTerminal(asked.Name); n++ {
			asked.Name = strconv.Itoa(n)
		}
	}
	if !a.hasTerminal(asked.Name) {
		if len(a.Terminals()) >= most {
			http.Error(w, `{"message":"too many"}`, http.StatusTooManyRequests)
			return
		}
		a.Update(func(s *agentapi.Status) {
			a.terminals = append(a.terminals, asked.Name)
			s.Terminals = len(a.terminals)
		})
	}
	a.answer(w, agentapi.Terminal{Name: asked.Name, LastActivity: time.Now().UTC()})
}

func (a *Agent) endTerminal(name string) {
	a.Update(func(s *agentapi.Status) {
		kept := a.terminals[:0]
		for _, t := range a.terminals {
			if t != name {
				kept = append(kept, t)
			}
		}
		a.terminals = kept
		s.Terminals = len(kept)
	})
}

func (a *Agent) playTerminal(ws *websocket.Conn, name string) {
	if ws.WriteJSON([]any{"setup", map[string]any{}}) != nil {
		return
	}
	for {
		var m []any
		if ws.ReadJSON(&m) != nil {
			return
		}
		if len(m) != 2 || m[0] != "stdin" {
			continue
		}
		if m[1] == "exit\r" {
			a.endTerminal(name)
			_ = ws.WriteJSON([]any{"disconnect", 1}) // the peer may be gone
			_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
			return
		}
		if ws.WriteJSON([]any{"stdout", m[1]}) != nil {
			return
		}
	}
}
