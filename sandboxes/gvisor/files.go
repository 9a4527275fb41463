package gvisor

import "kernelgw/sandboxes/hostproc"

// The files of one sandbox's directory, beside those of package statedir. runsc runs with it as its working
// directory and gets relative names where a socket is bound, so that the depth
// of the state directory does not meet the 108 bytes of sun_path.
const (
	planName      = "plan.json" // plan: what the supervisor is to do
	processesName = "processes.json"
	logName       = "log"         // what the agent wrote to stdout and stderr, bounded
	bundleName    = "bundle"      // OCI bundle
	overlayName   = "overlay"     // the writable layer
	layerName     = "layer.tar"   // what the writable layer begins with
	runscName     = "runsc"       // runsc's own state
	runName       = "run"         // AgentDir inside
	agentName     = "kernelagent" // empty; the agent's binary is mounted on it
	configName    = "agent.json"
	authorityName = "authority.pem" // of the egress proxy; only with a network
	socketName    = "agent.sock"
	pidName       = "sentry.pid"
)

// containerName is runsc's name of the one container in a sandbox.
const containerName = "s"

// processes are the host's processes of a sandbox.
type processes struct {
	Supervisor hostproc.ID   `json:"supervisor"`
	Sentry     hostproc.ID   `json:"sentry"` // zero until it runs
	Others     []hostproc.ID `json:"others,omitempty"`
}
