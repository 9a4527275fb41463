package agentapi

import (
	"context"
	"net/http"
	"regexp"
	"time"
)

// Terminal is a terminal of a sandbox. A sandbox has terminals when its Config
// names no kernel.
type Terminal struct {
	Name         string    `json:"name"` // as ValidTerminalName takes it
	LastActivity time.Time `json:"last_activity"`
}

// TerminalRequest describes a terminal to start.
type TerminalRequest struct {
	// Name is what it is to be called; empty means the lowest free number. A
	// terminal that has this name already is the answer, and none is started.
	Name string `json:"name,omitempty"`
	// Cwd is the directory to start in, as Config.Cwd.
	Cwd string `json:"cwd,omitempty"`
}

var terminalName = regexp.MustCompile(`^[A-Za-z0-9_]{1,64}$`)

// ValidTerminalName reports whether name may be that of a terminal. It is safe
// in a URL and as a file name.
func ValidTerminalName(name string) bool { return terminalName.MatchString(name) }

// TerminalSocket is the path at which an agent serves a terminal's WebSocket.
// The name must be valid.
func TerminalSocket(name string) string { return "/v1/terminals/" + name + "/socket" }

// Terminals lists the terminals of a sandbox.
func (c *Client) Terminals(ctx context.Context) ([]Terminal, error) {
	return call[[]Terminal](ctx, c, http.MethodGet, "/v1/terminals", callTimeout)
}

// StartTerminal starts a terminal. A *StatusError of 429 says that there are too
// many.
func (c *Client) StartTerminal(ctx context.Context, r TerminalRequest) (Terminal, error) {
	return send[Terminal](ctx, c, http.MethodPost, "/v1/terminals", r, callTimeout)
}

// Terminal returns one terminal; a *StatusError of 404 says that there is none
// of that name. The name must be valid.
func (c *Client) Terminal(ctx context.Context, name string) (Terminal, error) {
	return call[Terminal](ctx, c, http.MethodGet, "/v1/terminals/"+name, callTimeout)
}

// DeleteTerminal ends a terminal and returns when its processes are gone. The
// name must be valid.
func (c *Client) DeleteTerminal(ctx context.Context, name string) error {
	_, err := call[struct{}](ctx, c, http.MethodDelete, "/v1/terminals/"+name, callTimeout)
	return err
}
