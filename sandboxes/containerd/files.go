package containerd

import "kernelgw/sandboxes/hostproc"

// The files of one sandbox's directory, beside those of package statedir.
const (
	processName   = "process.json" // processes
	oomName       = "oom"          // present once the host or the guest killed a process for memory
	runName       = "run"          // AgentDir inside
	configName    = "agent.json"
	socketName    = "agent.sock"
	authorityName = "authority.pem" // of the egress proxy; empty when there is none
)

// processes are the host's processes of a sandbox, as containerd told them: of
// Kata, the virtual machine's, for each container the same. They are known for
// the sweeper only and never signalled in place of a container.
type processes struct {
	Pod hostproc.ID `json:"pod"`
}
