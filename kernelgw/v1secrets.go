package kernelgw

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"unicode/utf8"

	"kernelgw/auth"
	"kernelgw/jupyter/rest"
	"kernelgw/kernelgw/secrets"
)

// secretRoutes are the secrets of a workspace. There are none below a
// capability: whoever has one may use them in kernels, and that is all.
func secretRoutes() []Route {
	const path = "v1/workspaces/:workspace/secrets"
	return []Route{
		row(http.MethodGet, path, auth.API, baseOnly, "Secrets of the workspace, without their values", (*Server).listSecrets),
		row(http.MethodPut, path+"/:name", auth.API, baseOnly, "Set a secret: {value, hosts}. No answer ever has the value", (*Server).putSecret),
		row(http.MethodDelete, path+"/:name", auth.API, baseOnly, "Forget a secret, at once for kernels that run", (*Server).deleteSecret),
	}
}

// maxSecretBytes bounds the body that sets a secret.
const maxSecretBytes = 64 << 10

// secretModel is a secret as /v1 shows it. It has no field for the value.
type secretModel struct {
	Name        string    `json:"name"`
	Placeholder string    `json:"placeholder"` // what kernels have in its place
	Hosts       []string  `json:"hosts"`
	Created     rest.Time `json:"created"`
	Changed     rest.Time `json:"changed"`
	By          string    `json:"by"`
}

func (s *Server) listSecrets(c *call) error {
	if s.o.Secrets == nil {
		return errNoSecrets
	}
	list, err := s.o.Secrets.List(c.Request().Context(), c.workspace)
	if err != nil {
		return err
	}
	models := make([]secretModel, 0, len(list))
	for _, one := range list {
		models = append(models, modelSecret(one))
	}
	return c.JSON(http.StatusOK, models)
}

func (s *Server) putSecret(c *call) error {
	defer clear(c.body)
	if s.o.Secrets == nil {
		return errNoSecrets
	}
	if len(c.body) > maxSecretBytes {
		return tooLarge(maxSecretBytes)
	}
	value, hosts, err := readSecret(c.body)
	if err != nil {
		return err
	}
	name := c.pathParam("name")
	info, made, err := s.o.Secrets.Set(c.Request().Context(), c.workspace, name, value, hosts, c.owner())
	if err != nil {
		return secretError(err)
	}
	s.o.Log.Info("secret set", "audit", "secret", "workspace", c.workspace, "name", name, "hosts", strings.Join(info.Hosts, " "), "user", c.owner())
	status := http.StatusOK
	if made {
		status = http.StatusCreated
	}
	return c.JSON(status, modelSecret(info))
}

func (s *Server) deleteSecret(c *call) error {
	if s.o.Secrets == nil {
		return errNoSecrets
	}
	name := c.pathParam("name")
	if err := s.o.Secrets.Delete(c.Request().Context(), c.workspace, name); err != nil {
		return secretError(err)
	}
	s.o.Log.Info("secret deleted", "audit", "secret", "workspace", c.workspace, "name", name, "user", c.owner())
	return c.NoContent(http.StatusNoContent)
}

// readSecret reads a body without ever quoting it: a value may be at any place
// of it by mistake.
func readSecret(body []byte) (secrets.Value, []string, error) {
	fail := func(what string) (secrets.Value, []string, error) {
		return secrets.Value{}, nil, badRequest("%s", `Write {"value": "...", "hosts": ["api.example.org"]}: `+what)
	}
	var fields map[string]json.RawMessage
	if !utf8.Valid(body) || json.Unmarshal(body, &fields) != nil || fields == nil {
		return fail("the body is no JSON object in UTF-8")
	}
	var value string
	var hosts []string
	for key, field := range fields {
		var err error
		switch key {
		case "value":
			err = json.Unmarshal(field, &value)
		case "hosts":
			err = json.Unmarshal(field, &hosts)
		default:
			return fail("the body has another key")
		}
		if err != nil {
			return fail("value is a string and hosts is a list of strings")
		}
	}
	return secrets.NewValue(value), hosts, nil
}

func modelSecret(i secrets.Info) secretModel {
	return secretModel{
		Name: i.Name, Placeholder: i.Placeholder, Hosts: i.Hosts,
		Created: rest.Time{Time: i.Created}, Changed: rest.Time{Time: i.Changed}, By: i.By,
	}
}

var errNoSecrets = notFound("This server keeps no secrets")

func secretError(err error) error {
	switch {
	case errors.Is(err, secrets.ErrNotFound):
		return notFound("Secret does not exist")
	case errors.Is(err, secrets.ErrTooMany):
		return &httpError{status: http.StatusConflict, message: sentence(err.Error())}
	case errors.Is(err, secrets.ErrInvalid):
		return badRequest("%s", sentence(strings.TrimPrefix(err.Error(), secrets.ErrInvalid.Error()+": ")))
	}
	return err
}
