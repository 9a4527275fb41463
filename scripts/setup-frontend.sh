#!/bin/sh
# setup-frontend.sh [DIR]
#
# Makes the browser's side of JupyterLab and Notebook in DIR, .cache/frontend by
# default, from the wheels that frontend-config/wheels.txt pins:
#
#   lab/{static,schemas,themes}   JupyterLab; the schemas are Notebook's, too
#   notebook/static               Notebook
#   labextensions                 federated extensions
#
# Only these files are kept, and of what compresses also a .gz beside it. Doing
# it again costs nothing. PYTHON names another interpreter than python3.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
lock=$root/frontend-config/wheels.txt
dir=${1:-$root/.cache/frontend}

say() { printf 'setup-frontend: %s\n' "$*"; }
fail() {
	printf 'setup-frontend: %s\n' "$*" >&2
	exit 1
}

mkdir -p "$root/.cache/venv" "$(dirname "$dir")"
# Two make targets may need it at once.
if command -v flock >/dev/null 2>&1; then
	exec 9>"$dir.lock"
	flock 9
fi

want=$(cat "$lock" "$0" | cksum)
if [ "$(cat "$dir/stamp" 2>/dev/null)" = "$want" ]; then
	say "up to date"
	exit 0
fi

# A name of its own until it is whole: an interrupted run leaves nothing half.
new=$dir.new
trap 'rm -rf "$new"' EXIT
trap 'exit 130' INT TERM
rm -rf "$new"
mkdir -p "$new/wheels" "$new/unpacked" "$new/lab" "$new/notebook" "$new/labextensions"

say "downloading $(grep -c '==' "$lock") wheels (23 MB, once)"
python=$("$root/scripts/venv.sh" "$root/.cache/venv/frontend") || fail "cannot make a Python environment with pip"
"$python" -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
	-r "$lock" -d "$new/wheels" || fail "cannot download frontend-config/wheels.txt"

say "unpacking"
for wheel in "$new"/wheels/*.whl; do
	"$python" -m zipfile -e "$wheel" "$new/unpacked"
done
for share in "$new"/unpacked/*.data/data/share/jupyter; do
	for part in lab labextensions; do
		[ ! -d "$share/$part" ] || cp -R "$share/$part/." "$new/$part/"
	done
done
cp -R "$new/unpacked/notebook/static" "$new/notebook/static"
rm -rf "$new/wheels" "$new/unpacked"
for part in lab/static/index.html lab/schemas lab/themes notebook/static labextensions; do
	[ -e "$new/$part" ] || fail "the wheels have no $part: they are of another version"
done

say "compressing"
find "$new" -type f -size +1k \( -name '*.js' -o -name '*.css' -o -name '*.json' -o -name '*.svg' -o -name '*.map' -o -name '*.wasm' -o -name '*.ttf' \) \
	-exec gzip -9 -n -k {} +

# The server may run as another user.
chmod -R u=rwX,go=rX "$new"
printf '%s\n' "$want" >"$new/stamp"
rm -rf "$dir"
mv "$new" "$dir"
say "ready: $(find "$dir" -type f ! -name '*.gz' | wc -l | tr -d ' ') files in ${dir#"$root"/}"
