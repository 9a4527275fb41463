#!/bin/sh
# Builds runsc (gVisor) at the version that tools/gvisor/go.mod pins, into
# .cache/tools/bin/runsc. It does nothing when that binary is up to date.
# About two minutes of CPU the first time.
set -eu

cd "$(dirname "$0")/.."
bin=.cache/tools/bin
stamp="$bin/.runsc.stamp"

version=$(sed -n 's/^.*gvisor\.dev\/gvisor v\([^ ]*\).*$/v\1/p' tools/gvisor/go.mod)
want="$(cat tools/gvisor/go.mod tools/gvisor/go.sum scripts/build-runsc.sh | sha256sum | cut -d' ' -f1) $(go env GOVERSION GOARCH | tr '\n' ' ')"
if [ -x "$bin/runsc" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
	exit 0
fi

echo "building runsc $version (about two CPU minutes, once) ..." >&2
mkdir -p "$bin"
# A name of its own until it is whole: an interrupted or concurrent build
# never leaves half a binary under the real name.
new=$(mktemp "$bin/.runsc.XXXXXX")
trap 'rm -f "$new"' EXIT
trap 'exit 130' INT TERM
started=$(date +%s)
(
	cd tools/gvisor
	CGO_ENABLED=0 nice go build -mod=readonly -buildvcs=false -trimpath \
		-ldflags "-s -w -X gvisor.dev/gvisor/runsc/version.version=$version" \
		-o "../../$new" gvisor.dev/gvisor/runsc
)
# Ordinary users run it too.
chmod 0755 "$new"
mv -f "$new" "$bin/runsc"
echo "$want" >"$stamp"
echo "built $bin/runsc in $(($(date +%s) - started)) s" >&2
