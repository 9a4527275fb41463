package kernelgw

import (
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"kernelgw/auth"
	"kernelgw/jupyter/rest"
)

// capabilityModel is a capability as /v1/capabilities shows it.
type capabilityModel struct {
	ID        string     `json:"id"`
	Workspace string     `json:"workspace"`
	Label     string     `json:"label"`
	Created   rest.Time  `json:"created"`
	Expires   *rest.Time `json:"expires"`        // null: never
	Path      string     `json:"path,omitempty"` // only when it is made: the secret is not kept
	URL       string     `json:"url,omitempty"`  // path with the origin that the caller used
}

func (s *Server) listCapabilities(c *call) error {
	list, err := s.o.Users.Granted(c.Request().Context(), c.who)
	if err != nil {
		return err
	}
	models := make([]capabilityModel, 0, len(list))
	for _, one := range list {
		models = append(models, modelCapability(one))
	}
	return c.JSON(http.StatusOK, models)
}

// createCapability makes a base URL that carries its own credential, for
// clients that send none on their WebSocket.
func (s *Server) createCapability(c *call) error {
	var body struct {
		Workspace string `json:"workspace"`  // default: the caller's default
		Label     string `json:"label"`      // what to call it
		ExpiresIn *int64 `json:"expires_in"` // seconds; default: never
	}
	if len(c.body) > 0 {
		if err := decode(c.body, &body); err != nil {
			return err
		}
	}
	want := auth.Capability{Workspace: body.Workspace, Label: body.Label}
	if want.Workspace == "" {
		want.Workspace = c.workspace
	}
	const century = 100 * 365 * 24 * 3600
	switch {
	case !c.who.Member(want.Workspace):
		return notFound("Workspace does not exist: " + clip(want.Workspace))
	case len(want.Label) > 200 || strings.ContainsFunc(want.Label, func(r rune) bool { return r < ' ' || r == utf8.RuneError }):
		return badRequest("label must be one line of at most 200 bytes")
	case body.ExpiresIn != nil && (*body.ExpiresIn <= 0 || *body.ExpiresIn > century):
		return badRequest("expires_in must be a positive number of seconds, at most %d", century)
	case body.ExpiresIn != nil:
		want.Expires = time.Now().UTC().Add(time.Duration(*body.ExpiresIn) * time.Second)
	}
	secret, made, err := s.o.Users.Grant(c.Request().Context(), c.who, want)
	if err != nil {
		return err
	}
	model := modelCapability(made)
	model.Path = s.base + "t/" + secret + "/"
	model.URL = s.origin(c) + model.Path
	c.Response().Header().Set("Location", s.base+"v1/capabilities/"+made.ID)
	return c.JSON(http.StatusCreated, model)
}

func (s *Server) deleteCapability(c *call) error {
	id := c.pathParam("id")
	if err := s.o.Users.Revoke(c.Request().Context(), c.who, id); err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

func modelCapability(c auth.Capability) capabilityModel {
	m := capabilityModel{ID: c.ID, Workspace: c.Workspace, Label: c.Label, Created: rest.Time{Time: c.Created}}
	if !c.Expires.IsZero() {
		m.Expires = &rest.Time{Time: c.Expires}
	}
	return m
}
