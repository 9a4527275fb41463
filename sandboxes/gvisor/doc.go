// Package gvisor makes sandboxes with gVisor by running runsc directly: no
// daemon, no KVM, and no root where unprivileged user namespaces are allowed.
//
// Every sandbox has a directory of its own under Options.StateDir, which holds
// all that the driver knows of it, and a supervisor process (Supervise) that
// outlives the gateway and records how the sandbox ended. The driver itself
// keeps nothing in memory that it could not read again, so a new one over the
// same directory continues where a killed one stopped.
//
// Package gvisor knows nothing of Jupyter, and of images only where their
// files are.
package gvisor
