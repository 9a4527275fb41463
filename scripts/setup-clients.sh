#!/bin/sh
# setup-clients.sh [stock] [clients] [weed] [s3contents] [kernel_gateway] [node]
#
# Installs the real clients that conformance/clients runs, the stock
# jupyter_server that conformance compares with, and SeaweedFS, the S3 server
# that contents/s3store is tested on, into .cache. s3contents and kernel_gateway are
# for bench alone and installed when they are named. Versions are pinned in
# conformance/clients/{python,node}. Doing it again costs nothing: each part has
# a stamp that names its lock file and interpreter.
# PYTHON and NPM name other interpreters than python3 and npm.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
cache=$root/.cache
locks=$root/conformance/clients
python=${PYTHON:-python3}
npm=${NPM:-npm}

say() { printf 'setup-clients: %s\n' "$*"; }
fail() {
	printf 'setup-clients: %s\n' "$*" >&2
	exit 1
}

mkdir -p "$cache/venv"
# Two make targets may need the clients at once.
if command -v flock >/dev/null 2>&1; then
	exec 9>"$cache/setup-clients.lock"
	flock 9
fi

need_python() {
	command -v "$python" >/dev/null 2>&1 ||
		fail "no $python found: install Python 3.11 or newer, or set PYTHON"
	"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
		fail "$python is $("$python" --version 2>&1): the clients need 3.11 or newer; set PYTHON"
}

setup_venv() {
	venv=$cache/venv/$1
	lock=$locks/python/$1.txt
	need_python
	want="$(cksum <"$lock") $("$python" --version 2>&1) $venv"
	if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/stamp" 2>/dev/null)" = "$want" ]; then
		say "$1: up to date"
		return
	fi
	say "$1: installing $(grep -c '==' "$lock") Python packages into .cache/venv/$1"
	rm -rf "$venv"
	PYTHON=$python "$root/scripts/venv.sh" "$venv" >"$cache/venv/log" 2>&1 ||
		fail "cannot make a Python environment: $(tail -n 1 "$cache/venv/log")"
	"$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps -r "$lock" >"$cache/venv/log" 2>&1 || {
		tail -n 5 "$cache/venv/log" >&2
		fail "cannot install conformance/clients/python/$1.txt; see .cache/venv/log"
	}
	printf '%s\n' "$want" >"$venv/stamp"
	say "$1: ready"
}

setup_node() {
	for program in node "$npm"; do
		command -v "$program" >/dev/null 2>&1 || fail "no $program found: install Node.js 20 or newer (with npm)"
	done
	node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' ||
		fail "node is $(node --version): @jupyterlab/services needs 20 or newer"
	want="$(cksum <"$locks/node/package-lock.json") $(node --version)"
	if [ "$(cat "$cache/node/stamp" 2>/dev/null)" = "$want" ]; then
		say "node: up to date"
		return
	fi
	say "node: installing @jupyterlab/services into .cache/node"
	mkdir -p "$cache/node"
	cp "$locks/node/package.json" "$locks/node/package-lock.json" "$cache/node/"
	(cd "$cache/node" && "$npm" ci --no-audit --no-fund --ignore-scripts >log 2>&1) || {
		tail -n 5 "$cache/node/log" >&2
		fail "cannot install conformance/clients/node/package-lock.json; see .cache/node/log"
	}
	printf '%s\n' "$want" >"$cache/node/stamp"
	say "node: ready"
}

[ $# -gt 0 ] || set -- stock clients weed node
for part in "$@"; do
	case $part in
	stock | clients | weed | s3contents | kernel_gateway) setup_venv "$part" ;;
	node) setup_node ;;
	*) fail "unknown part $part: one of stock, clients, weed, s3contents, kernel_gateway, node" ;;
	esac
done
