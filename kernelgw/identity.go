package kernelgw

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"unicode/utf8"

	"kernelgw/auth"
	"kernelgw/jupyter/rest"
)

// Version is what GET /api says: clients choose features of jupyter_server by
// it (session PATCH, contents hashes), and this is the release whose behaviour
// the contract was observed on.
const Version = "2.21.1"

// identityModel is who the caller is, as JupyterLab shows it.
type identityModel struct {
	Username    string  `json:"username"`
	Name        string  `json:"name"`
	DisplayName string  `json:"display_name"`
	Initials    string  `json:"initials"`
	AvatarURL   *string `json:"avatar_url"`
	Color       *string `json:"color"`
}

func (s *Server) getVersion(c *call) error {
	return c.JSON(http.StatusOK, map[string]string{"version": Version})
}

// getMe tells who the caller is. Within its workspace a caller may do
// everything, so each permission that is asked for is given.
func (s *Server) getMe(c *call) error {
	permissions := map[string][]string{}
	if asked := c.QueryParam("permissions"); asked != "" {
		if err := json.Unmarshal([]byte(asked), &permissions); err != nil || permissions == nil {
			return badRequest(`permissions should be a JSON dict of {"resource": ["action",]}`)
		}
		for resource, actions := range permissions {
			if actions == nil {
				return badRequest("permissions: %s should be a list of actions", clip(resource))
			}
		}
	}
	permissions["updatable_fields"] = []string{"color"}
	return c.JSON(http.StatusOK, map[string]any{"identity": s.identity(c), "permissions": permissions})
}

func (s *Server) patchMe(c *call) error {
	if len(c.body) == 0 {
		return badRequest("Invalid or missing JSON body")
	}
	var fields map[string]any
	if err := decode(c.body, &fields); err != nil {
		return err
	}
	if len(fields) == 0 {
		return badRequest("Invalid or missing JSON body")
	}
	for field := range fields {
		if field != "color" {
			return badRequest("Field %s is not updatable", clip(field))
		}
	}
	color, ok := fields["color"].(string)
	if !ok || len(color) > 64 {
		return badRequest("color must be a string of at most 64 bytes")
	}
	s.colors.set(c.owner(), color)
	return c.JSON(http.StatusOK, map[string]any{"status": "success", "identity": s.identity(c)})
}

func (s *Server) identity(c *call) identityModel {
	return identityModel{
		Username: c.who.Subject, Name: c.who.DisplayName, DisplayName: c.who.DisplayName,
		Initials: initials(c.who.DisplayName), Color: s.colors.get(c.owner()),
	}
}

// initials returns the first letters of the first and last word of a name.
func initials(name string) string {
	words := strings.Fields(name)
	if len(words) == 0 {
		return ""
	}
	first, _ := utf8.DecodeRuneInString(words[0])
	if len(words) == 1 {
		return strings.ToUpper(string(first))
	}
	last, _ := utf8.DecodeRuneInString(words[len(words)-1])
	return strings.ToUpper(string(first) + string(last))
}

// colors are the users' cursor colors, until the process ends: nothing hangs on
// them.
type colors struct {
	mu     sync.Mutex
	byUser map[string]string // guarded by mu; at most one per user of the configuration
}

func newColors() *colors { return &colors{byUser: map[string]string{}} }

func (c *colors) set(user, color string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byUser[user] = color
}

func (c *colors) get(user string) *string {
	c.mu.Lock()
	defer c.mu.Unlock()
	color, ok := c.byUser[user]
	if !ok {
		return nil
	}
	return &color
}

// getStatus sums up the caller's workspace only: what others do is not its
// business.
func (s *Server) getStatus(c *call) error {
	list, err := s.o.Kernels.List(c.Request().Context(), c.workspace)
	if err != nil {
		return err
	}
	last, connections := s.started, 0
	for _, k := range list {
		connections += k.Connections
		if k.LastActivity.After(last) {
			last = k.LastActivity
		}
	}
	return c.JSON(http.StatusOK, struct {
		Started      rest.Time `json:"started"`
		LastActivity rest.Time `json:"last_activity"`
		Kernels      int       `json:"kernels"`
		Connections  int       `json:"connections"`
	}{rest.Time{Time: s.started}, rest.Time{Time: last}, len(list), connections})
}

// postShutdown stops the server. A stock server obeys everyone; of ours the
// kernels of others depend on it.
func (s *Server) postShutdown(c *call) error {
	if !c.who.Owner || s.o.Shutdown == nil {
		return forbidden("Only the owner of a single-user server may shut it down")
	}
	if err := c.NoContent(http.StatusOK); err != nil {
		return fmt.Errorf("cannot answer: %w", err)
	}
	// The answer must be on its way before the server drains.
	if err := http.NewResponseController(c.Response()).Flush(); err != nil {
		s.o.Log.Debug("the answer to a shutdown was not flushed", "error", err)
	}
	s.o.Shutdown()
	return nil
}

func (s *Server) getHealth(c *call) error {
	return c.JSON(http.StatusOK, map[string]string{"status": "ok"})
}

func (s *Server) getReady(c *call) error {
	if s.draining.Load() {
		return &httpError{status: http.StatusServiceUnavailable, message: "Draining", retryAfter: 5}
	}
	if !s.o.Kernels.Ready() {
		return &httpError{status: http.StatusServiceUnavailable, message: "Adopting kernels", retryAfter: 1}
	}
	return c.JSON(http.StatusOK, map[string]string{"status": "ready"})
}

// operators reports whether a route was opened by the operators' token for it,
// which is nobody's of the users.
func (s *Server) operators(route Route, given auth.Credentials) bool {
	switch {
	case route.Path == metricsPath:
		return presented(s.o.MetricsToken, given)
	case route.Access == auth.Admin:
		return presented(s.o.AdminToken, given)
	}
	return false
}

// presented reports whether a token was, which is none when it is "".
func presented(token string, given auth.Credentials) bool {
	if token == "" {
		return false
	}
	want, same := sha256.Sum256([]byte(token)), 0
	for _, t := range append(given.Tokens, given.Basic) {
		hash := sha256.Sum256([]byte(t))
		same |= subtle.ConstantTimeCompare(hash[:], want[:])
	}
	return same == 1
}

// getMetrics tells about all users, so that none of a list may read it. Nobody
// is known where the route is public or the metrics token opened it.
func (s *Server) getMetrics(c *call) error {
	if c.who.Subject != "" && !c.who.Owner {
		return forbidden("Metrics tell about all users: they need the metrics token")
	}
	s.flushTraffic()
	s.o.Metrics.Handler().ServeHTTP(c.Response(), c.Request())
	return nil
}

// postCSPReport drops what browsers report, unread: anyone may send any amount
// of anything here, or announce it and send nothing.
func (s *Server) postCSPReport(c *call) error {
	c.Response().Header().Set("Connection", "close")
	return c.NoContent(http.StatusOK)
}
