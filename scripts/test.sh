#!/bin/sh
# Every test: units with the race detector, then the black-box suites and the
# real clients against the binaries, on both drivers.
set -eu

cd "$(dirname "$0")/.."
step() { printf '== %s\n' "$*"; }

if [ "$(id -u)" != 0 ]; then
	echo "!! NOT CHECKED: what needs root: kernels of another user, sandboxes with control groups" >&2
	export KERNELGW_TEST_SKIP_ROOT=1
fi

# Several packages test programs that they build: a cached result would hide
# that these have changed. Hence -count=1. Many wait for processes and clocks
# rather than for a core: four at a time take half as long as two.
step "unit tests"
long='kernelgw/sandboxes/containerd kernelgw/contents/s3store kernelgw/sandboxes/gvisor'
others=$(go list ./... | grep -v '^kernelgw/conformance')
for package in $long; do
	others=$(echo "$others" | grep -vx "$package")
done
units="$long $others" # the longest first, so that nothing waits for them alone
# shellcheck disable=SC2086 # package names are words
if command -v gcc >/dev/null 2>&1; then
	CGO_ENABLED=1 go test -race -count=1 -p 4 -timeout 40m $units
	step "what the race detector would distort: memory, allocations and large directories"
	go test -count=1 ./kernelgw/splice
	go test -count=1 -run Allocates ./sandboxes/agent ./jupyter/zmq
	go test -count=1 -run 'Large|Bomb' ./contents ./contents/s3store
else
	echo "!! NOT CHECKED: data races: the race detector needs a C compiler (gcc), and there is none" >&2
	go test -count=1 -timeout 40m $units
fi

# What does not depend on our driver is met once: the stock servers, and a day in
# the browser at one of them, which is compared with ours of each driver.
if [ -z "${KERNELGW_LONG:-}" ]; then
	echo "!! NOT CHECKED without KERNELGW_LONG=1: every check through nginx, a minute of breaks in the browser, calls and drains that take long (docs/nginx.md); 500 plans of faults instead of 20, and partitions of minutes (docs/streaming.md)" >&2
fi
step "conformance and real clients, driver process; browsers, drivers process and gvisor"
KERNELGW_CONFORMANCE_DRIVER=process KERNELGW_BROWSER_DRIVERS="process gvisor" go test -exec "$PWD/scripts/own-network.sh" -count=1 -timeout 45m ./conformance/...
step "conformance and real clients, driver gvisor"
KERNELGW_CONFORMANCE_DRIVER=gvisor go test -p 1 -exec "$PWD/scripts/own-network.sh" -count=1 -timeout 45m \
	-skip '^TestStock$|^TestJupyterLabServicesOfFilesSettingsAndTerminals$/^stock$' ./conformance ./conformance/clients
