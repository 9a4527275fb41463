// Package agentapi is the contract between the gateway and the agent inside a
// sandbox: one HTTP port, every request with "Authorization: Bearer <token>".
//
//	GET  /v1/status            200 Status
//	GET  /v1/watch             200 NDJSON of Status: one at once, one at each change (at most 20 a second), one at least every 10 s
//	POST /v1/kernel/interrupt  204
//	POST /v1/kernel/restart    200 Status, when the old process is gone and the new one is spawned; works on a dead kernel too
//	POST /v1/kernel/shutdown   204, when the kernel is gone (asked politely for 5 s, then killed); sockets got "dead" and 1000; the agent then exits 0
//	GET  /v1/usage             200 Usage
//	GET  /v1/files, /v1/files/link, POST /v1/files/flush: see FilesProtocol
//	GET  /v1/stream, /v1/output: see StreamBeat
//	     /v1/executions        see ExecuteRequest
//	GET  /v1/unsaved[?all=1]   200 [UnsavedCell], oldest first, as many as fit into MaxUnsavedBytes
//	POST /v1/unsaved           204, for a [SavedCell]
//	     /v1/log/...           see OutputLogConfig
//	GET  /v1/channels?session_id=S   WebSocket: the Jupyter kernel protocol in the client's subprotocol
//
// A Config without a kernel makes a sandbox of terminals, with these instead of
// the restart, the interrupt and the channels of a kernel:
//
//	GET    /v1/terminals               200 [Terminal], in order of their start
//	POST   /v1/terminals               200 Terminal, for a TerminalRequest; 429 when there are too many
//	GET    /v1/terminals/{name}        200 Terminal, or 404
//	DELETE /v1/terminals/{name}        204, when its processes are gone; or 404
//	GET    /v1/terminals/{name}/socket WebSocket: terminado's protocol, JSON arrays as text; 404 before the upgrade
//	GET    /v1/exporters               200 {name: Exporter}: what the image's nbconvert makes of notebooks; {} when there is none
//	POST   /v1/convert?request=R       200, for the JSON of a ConvertRequest and a notebook as the body: a line of Document, then as many bytes as
//	                                   that says; 400 no notebook, 404 no such exporter, 413, 422 for one that cannot be converted in
//	                                   ConvertPatience, 429 when there are too many at once, 501 when the image lacks what it takes
//
// The caller treats every byte of an agent as hostile: answers are bounded in
// length and time.
package agentapi

import (
	"time"

	"kernelgw/jupyter"
)

// Config is what the gateway tells an agent about its kernel. It travels as a
// JSON file that the kernel's user cannot read. What depends on the driver
// (where to listen, which user to run the kernel as) comes as agent flags.
type Config struct {
	Token       string             `json:"token"` // bearer token of this agent's API
	KernelID    string             `json:"kernel_id"`
	KernelName  string             `json:"kernel_name"`
	Spec        jupyter.Kernelspec `json:"spec"`
	ResourceDir string             `json:"resource_dir"` // replaces {resource_dir} in argv
	Env         map[string]string  `json:"env,omitempty"`
	// Cwd is the directory to start in: relative to the home directory, or
	// absolute. A directory that does not exist walks up to one that does.
	Cwd string `json:"cwd,omitempty"`
	// MemoryBytes and Processes end the kernel, with a reason, when all its
	// processes together exceed them. Zero means no limit.
	MemoryBytes int64 `json:"memory_bytes,omitempty"`
	Processes   int64 `json:"processes,omitempty"`
	// LogBytes is the byte budget of the event log. Zero means DefaultLogBytes.
	LogBytes int64 `json:"log_bytes,omitempty"`
	// MaxMessageBytes caps one message in either direction. Zero means
	// DefaultMaxMessageBytes.
	MaxMessageBytes int64 `json:"max_message_bytes,omitempty"`
	// Caps are budgets of what the kernel shows.
	Caps OutputCaps `json:"caps,omitzero"`
	// OutputLog has the agent keep all that the kernel prints until the gateway has
	// fetched it. Nil means that it does not.
	OutputLog *OutputLogConfig `json:"output_log,omitempty"`
	// Files has the agent keep the home directory as the workspace is. Nil means
	// that the sandbox has its home for itself.
	Files *FilesConfig `json:"files,omitempty"`
	// MaxTerminals caps the terminals of a sandbox of them. Zero means
	// DefaultMaxTerminals.
	MaxTerminals int `json:"max_terminals,omitempty"`
	// TerminalIdle ends a terminal that nobody looks at and that neither got nor
	// printed anything for so long. Zero means DefaultTerminalIdle.
	TerminalIdle time.Duration `json:"terminal_idle,omitempty"`
}

// HasKernel reports whether the sandbox is for a kernel. The others are for
// terminals.
func (c *Config) HasKernel() bool { return c.KernelName != "" || len(c.Spec.Argv) > 0 }

// Defaults of Config.
const (
	DefaultLogBytes        = 16 << 20
	DefaultMaxMessageBytes = 100 << 20
	DefaultMaxTerminals    = 20
	DefaultTerminalIdle    = 12 * time.Hour
)

// Status is the state of an agent's kernel.
type Status struct {
	KernelID       string        `json:"kernel_id"`
	ExecutionState jupyter.State `json:"execution_state"`  // starting, idle, busy or dead, by the rules of jupyter_server
	Ready          bool          `json:"ready"`            // the kernel has answered since its last start
	Reason         string        `json:"reason,omitempty"` // why it is dead, or why it last restarted by itself
	LastActivity   time.Time     `json:"last_activity"`
	Executions     int           `json:"executions"`  // execute requests outstanding
	Connections    int           `json:"connections"` // open WebSockets
	Starts         int           `json:"starts"`      // how often a kernel process was started
	Replayed       uint64        `json:"replayed"`    // messages sent again after a reconnect, in total
	// Dropped is how many messages left the event log before a client got them, or
	// never got there because of a cap, in total.
	Dropped uint64 `json:"dropped"`
	// Terminals is how many there are. In a sandbox of terminals
	// ExecutionState is idle, and then dead.
	Terminals int `json:"terminals,omitempty"`
	// Unsaved is how many cells of documents have outputs that are to be saved now:
	// see Unsaved.
	Unsaved int `json:"unsaved,omitempty"`
	// LogParts is how many parts of output wait to be fetched: see OutputLogConfig.
	LogParts int `json:"log_parts,omitempty"`
}

// Usage is what the sandbox uses now.
type Usage struct {
	CPUSeconds  float64 `json:"cpu_seconds"` // user and system, since the start
	MemoryBytes int64   `json:"memory_bytes"`
	Processes   int64   `json:"processes"`
	LogBytes    int64   `json:"log_bytes"` // held by the event log
}
