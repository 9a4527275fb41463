#!/bin/sh
# Holds the containerd driver to its contract on the Kata of this host, and tries
# the faults that Kata is known for. It needs root, containerd with Kata 4.1.0 or
# later, and these:
#
#   KERNELGW_KATA_SOCKET   containerd's socket; without it nothing is checked
#   KERNELGW_KATA_RUNTIME  handler (default kata-qemu-runtime-rs) or path of a shim
#   KERNELGW_KATA_CONFIG   the shim's configuration file; default: the handler's
#
# It works in containerd's namespace kernelgw-test and in a network namespace of
# its own, and leaves nothing behind. Under software emulation it takes hours.
set -eu

cd "$(dirname "$0")/.."
if [ -z "${KERNELGW_KATA_SOCKET:-}" ]; then
	cat >&2 <<'END'
!! NOT CHECKED: Kata. KERNELGW_KATA_SOCKET is not set, so nothing was tried here,
!! and this is no pass. On a host with Kata 4.1.0 or later, as root:
!!   make conformance-kata KERNELGW_KATA_SOCKET=/run/containerd/containerd.sock \
!!     KERNELGW_KATA_RUNTIME=kata-qemu-runtime-rs
END
	exit 0
fi
if ! [ -S "$KERNELGW_KATA_SOCKET" ]; then
	echo "KERNELGW_KATA_SOCKET: there is no socket at $KERNELGW_KATA_SOCKET" >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "conformance with Kata needs root: containerd's socket and network namespaces" >&2
	exit 1
fi
exec go test -count=1 -v -timeout 12h -run '^(TestContractKata|TestMemoryLimitIsTheReason|TestKilledShimLeavesNothing|TestDeathOfTheMachineIsTheReason|TestLeaksAreFoundAndRepaired|TestManySandboxesLeaveNothing|TestImagesNoLongerKeptAreCollected|TestDiskLastsAsLongAsItsSandbox)$' \
	./sandboxes/containerd
