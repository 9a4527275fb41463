// Package containerd makes sandboxes through a containerd daemon: with Kata
// Containers, each in a virtual machine of its own, or with runc, for people
// who trust their users. Both go the same way.
//
// A sandbox is a pod, as Kubernetes would make it: a small container that does
// nothing and holds the virtual machine and the network namespace, and a second
// one whose first process is the agent. That is how Kata tells of a kill for
// memory, and why a workload's end does not take its machine away unseen. What
// Kata's two shims do differently from runc's and from each other is handled
// where it matters, and named there.
//
// Every sandbox has a directory of its own under Options.StateDir, which holds
// what containerd has no place for. The rest (containers, tasks, snapshots, a
// lease) bears the sandbox's name in one namespace of containerd. The driver
// keeps nothing in memory that it could not read again, so a new one continues
// where a killed one stopped.
//
// Package containerd knows nothing of Jupyter, nor of how a network namespace
// is made and guarded, and of images only where their blobs are.
package containerd
