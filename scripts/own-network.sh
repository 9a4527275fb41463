#!/bin/sh
# For go test -exec: runs a command in a network namespace of its own, with a loopback and nothing
# else: the gateways that tests start make links and packet filter rules for
# their sandboxes, which are nobody's business outside. Who may not make such a
# namespace has sandboxes without a network, and is told so.
set -eu

if ! unshare -n true 2>/dev/null; then
	echo "!! NOT CHECKED: kernels with a closed network in the black-box suites: only root can make network namespaces" >&2
	exec "$@"
fi
export KERNELGW_TEST_OWN_NETWORK=1
# By Python, because a small system has no ip command.
# shellcheck disable=SC2016 # the inner shell's arguments
exec unshare -n sh -c '
	python3 -c "
import fcntl, socket, struct
up, SIOCSIFFLAGS = 1, 0x8914
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), SIOCSIFFLAGS, struct.pack(\"16sH14x\", b\"lo\", up))
"
	exec "$@"
' sh "$@"
