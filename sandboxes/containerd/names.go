package containerd

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// names are how a driver calls what it makes for sandboxes, in containerd and on
// the host: always by the prefix and the sandbox's id. The prefix is the driver's
// own, so that of what is left on a host it knows its own and touches nobody
// else's. With the longest id a pod's name has 70 bytes: Kata binds sockets in
// directories named after it.
type names struct{ prefix string }

// workSuffix tells the container with the agent from the one that holds the pod.
const workSuffix = ".w"

// newNames are the names of the driver whose state directory has an identity.
func newNames(owner string) names {
	sum := sha256.Sum256([]byte(owner))
	return names{prefix: "k" + hex.EncodeToString(sum[:])[:5] + "-"}
}

// pod is the name of a sandbox's first container, which Kata takes for the
// sandbox's own.
//
// containerd does not take a hyphen at the end or two in a row. Where an id has
// those its hyphens become an X, which no id has.
func (n names) pod(id string) string {
	if strings.Contains(id, "--") || strings.HasSuffix(id, "-") {
		id = strings.ReplaceAll(id, "-", "X")
	}
	return n.prefix + id
}

// work is the name of the container with the agent.
func (n names) work(id string) string { return n.pod(id) + workSuffix }

// sandbox returns the id of the sandbox that a container is named after.
func (n names) sandbox(name string) (id string, ok bool) {
	id, ok = strings.CutPrefix(strings.TrimSuffix(name, workSuffix), n.prefix)
	return strings.ReplaceAll(id, "X", "-"), ok && id != ""
}
