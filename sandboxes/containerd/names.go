package containerd

import "strings"

// namePrefix is what every name in containerd and on the host begins with, so
// that what is left over says whose it was. With the longest sandbox id a name
// has 67 bytes: Kata binds sockets in directories named after it.
const namePrefix = "kgw-"

// workSuffix tells the container with the agent from the one that holds the pod.
const workSuffix = ".agent"

// podName is the name of a sandbox's first container, which Kata takes for the
// sandbox's own.
//
// containerd does not take a hyphen at the end or two in a row. Where an id has
// those its hyphens become an X, which no id has.
func podName(id string) string {
	if strings.Contains(id, "--") || strings.HasSuffix(id, "-") {
		id = strings.ReplaceAll(id, "-", "X")
	}
	return namePrefix + id
}

// workName is the name of the container with the agent.
func workName(id string) string { return podName(id) + workSuffix }

// sandboxOf returns the id of the sandbox that a container's name is made of.
func sandboxOf(name string) (id string, ok bool) {
	name, ok = strings.CutPrefix(name, namePrefix)
	name = strings.TrimSuffix(name, workSuffix)
	return strings.ReplaceAll(name, "X", "-"), ok && name != ""
}

// cgroupName is the control group of a container.
func cgroupName(name string) string { return "/" + name }
