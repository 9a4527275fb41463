// Package rest holds the JSON types of the Jupyter REST API, as stock clients
// parse them. It knows shapes only: no handlers, no state.
package rest

import (
	"encoding/json"
	"time"
)

// Time is a timestamp in the one form that every stock client parses: UTC,
// six fractional digits, a literal Z.
type Time struct{ time.Time }

// TimeLayout is the layout of Time. jupyter_server's gateway client parses
// with a strict format: RFC 3339 with nine digits, none or an offset raises.
const TimeLayout = "2006-01-02T15:04:05.000000Z"

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) {
	return []byte(`"` + t.UTC().Format(TimeLayout) + `"`), nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *Time) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	parsed, err := time.Parse(time.RFC3339Nano, s)
	t.Time = parsed
	return err
}

// Kernel is the kernel model. Reason is present only when a failure is known.
type Kernel struct {
	ID             string `json:"id"`
	Name           string `json:"name"`
	LastActivity   Time   `json:"last_activity"`
	ExecutionState string `json:"execution_state"`
	Connections    int    `json:"connections"`
	Reason         string `json:"reason,omitempty"`
}

// Terminal is the model of a terminal.
type Terminal struct {
	Name         string `json:"name"`
	LastActivity Time   `json:"last_activity"`
}

// Session is the session model. Notebook repeats path and name for sessions
// of type "notebook", as old clients expect.
type Session struct {
	ID       string        `json:"id"`
	Path     string        `json:"path"`
	Name     string        `json:"name"`
	Type     string        `json:"type"`
	Kernel   Kernel        `json:"kernel"`
	Notebook *NotebookName `json:"notebook,omitempty"`
}

// NotebookName is the document of a notebook session.
type NotebookName struct {
	Path string `json:"path"`
	Name string `json:"name"`
}

// Kernelspecs is the answer of /api/kernelspecs.
type Kernelspecs struct {
	Default     string                `json:"default"`
	Kernelspecs map[string]Kernelspec `json:"kernelspecs"`
}

// Kernelspec is one entry of Kernelspecs. Spec is the kernel.json, whole.
type Kernelspec struct {
	Name      string            `json:"name"`
	Spec      json.RawMessage   `json:"spec"`
	Resources map[string]string `json:"resources"` // name to URL; never nil
}

// Error is the body of every error answer. ShortMessage is set when a kernel
// could not be started.
type Error struct {
	Message      string  `json:"message"`
	Reason       *string `json:"reason"`
	ShortMessage string  `json:"short_message,omitempty"`
	Traceback    *string `json:"traceback,omitempty"`
}
