#!/bin/sh
# The quality gate: stops at the first thing that is not in order, and says
# loudly what could not be checked here.
set -eu

cd "$(dirname "$0")/.."
PATH=$PWD/.cache/tools/bin:$PATH
step() { printf '== %s\n' "$*"; }

# The steps below check what git lists. Where git lists nothing, as outside of a
# checkout or in one of another user, they would pass unread.
top=$(git rev-parse --show-toplevel) || {
	echo "cannot list the files to check: run this in a git checkout; if git says dubious ownership, run: git config --global --add safe.directory '$PWD'" >&2
	exit 1
}
[ "$top" = "$(pwd -P)" ] || {
	echo "cannot list the files to check: this directory is not a checkout of its own but part of $top" >&2
	exit 1
}

step gofumpt
unformatted=$(git ls-files -z --cached --others --exclude-standard '*.go' | xargs -0 ls -d 2>/dev/null | xargs gofumpt -l)
[ -z "$unformatted" ] || {
	printf 'not formatted (run gofumpt -w on them):\n%s\n' "$unformatted" >&2
	exit 1
}

step go vet
go vet ./...

step staticcheck
staticcheck ./...

step shellcheck
git ls-files -z --cached --others --exclude-standard 'scripts/*.sh' '.ci/run' | xargs -0 shellcheck

# Except in the list of the public package indexes that sandboxes may reach.
step "no registry hosts, no paths of one machine"
if git grep -nE 'pypi\.org|pythonhosted\.org|registry\.npmjs|deb\.debian\.org|proxy\.golang\.org|/work/(main|shared)|/root/(go|\.)' -- . \
	':!scripts/check.sh' ':!*.sum' ':!sandboxes/netpolicy/egress/packages.go'; then
	echo "the lines above name a registry host or a path of one machine" >&2
	exit 1
fi

step govulncheck
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if govulncheck ./... >"$log" 2>&1; then
	tail -n 1 "$log"
elif grep -qE 'vuln\.go\.dev|fetching vulnerabilities|dial tcp|403 Forbidden|no such host' "$log"; then
	echo "!! NOT CHECKED: known vulnerabilities: the vulnerability database cannot be reached from here" >&2
else
	cat "$log" >&2
	exit 1
fi
