#!/bin/sh
# Gets what the tests of sandboxes/containerd run: Debian's containerd and runc
# (by apt, as root), and containerd v2 with its shim and the fake Kata shim, built
# at the versions that tools/containerd/go.mod pins into .cache/tools/bin. It does
# nothing that is done. What cannot be had is said as NOT CHECKED: the tests do
# without it, and say so too. About two minutes of CPU the first time.
set -eu

cd "$(dirname "$0")/.."
bin=.cache/tools/bin
stamp="$bin/.containerd.stamp"

if ! [ -x /usr/bin/containerd ] || ! command -v runc >/dev/null 2>&1; then
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
		echo "installing Debian's containerd and runc ..." >&2
		# RUNLEVEL=1: nothing is started by being installed.
		RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 \
			install -y --no-install-recommends containerd runc >&2 || true
	fi
fi
if ! [ -x /usr/bin/containerd ] || ! command -v runc >/dev/null 2>&1; then
	echo "!! NOT CHECKED: Debian's containerd and runc are not installed, and this is not root with apt" >&2
fi

want="$(cat tools/containerd/go.mod tools/containerd/go.sum tools/containerd/*/*.go scripts/setup-containerd.sh | sha256sum | cut -d' ' -f1) $(go env GOVERSION GOARCH | tr '\n' ' ')"
if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
	exit 0
fi

version=$(sed -n 's/^.*github\.com\/containerd\/containerd\/v2 \(v[^ ]*\).*$/\1/p' tools/containerd/go.mod)
echo "building containerd $version (about two CPU minutes, once) ..." >&2
mkdir -p "$bin"
# A name of its own until it is whole: an interrupted or concurrent build
# never leaves half a binary under the real name.
new=$(mktemp -d "$bin/.containerd.XXXXXX")
trap 'rm -rf "$new"' EXIT
trap 'exit 130' INT TERM
started=$(date +%s)
(
	cd tools/containerd
	for program in github.com/containerd/containerd/v2/cmd/containerd \
		github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2 ./fakekata; do
		# Without CRI: the tests are the only client.
		CGO_ENABLED=0 nice go build -mod=readonly -buildvcs=false -trimpath -tags no_cri \
			-ldflags "-s -w -X github.com/containerd/containerd/v2/version.Version=$version" \
			-o "../../$new/" "$program"
	done
)
# By its name the driver takes it for Kata; the directory says which of the two.

for flavour in go rs; do
	mkdir -p "$bin/kata/$flavour"
	cp "$new/fakekata" "$new/shim"
	mv -f "$new/shim" "$bin/kata/$flavour/containerd-shim-kata-v2"
done
mv -f "$new/containerd" "$new/containerd-shim-runc-v2" "$bin/"
echo "$want" >"$stamp"
echo "built $bin/containerd in $(($(date +%s) - started)) s" >&2
