#!/bin/sh
# unpack-debian.sh DIR PACKAGE...
#
# Lays out below DIR/root what Debian's packages need and this machine has not.
# They are fetched by apt-get on a state of its own: nothing of the system is read
# but apt's sources and the list of what is installed, nothing of it is changed,
# no script of a package runs, and no root is needed. DIR/stamp says what is
# there; doing it again costs nothing. What apt said is in DIR/log.
set -eu

home=$1
shift
fail() {
	printf 'unpack-debian: %s\n' "$*" >&2
	exit 1
}

for tool in apt-get dpkg dpkg-deb; do
	command -v $tool >/dev/null 2>&1 || fail "there is no $tool"
done

# shellcheck source=/dev/null
want="$(dpkg --print-architecture) $(. /etc/os-release && printf %s "${VERSION_CODENAME:-$ID}")"
[ "$(cat "$home/stamp" 2>/dev/null)" != "$want" ] || exit 0

apt() {
	LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get -q -y \
		-o "Dir::State=$home/apt/state" -o "Dir::State::status=$home/apt/status" \
		-o "Dir::Cache=$home/apt/cache" -o APT::Sandbox::User=root \
		-o APT::Install-Recommends=false -o Acquire::Languages=none -o Acquire::Retries=3 "$@"
}

printf 'unpack-debian: fetching %s (once)\n' "$*"
rm -rf "$home/apt" "$home/root"
mkdir -p "$home/apt/state/lists/partial" "$home/apt/cache/archives/partial" "$home/root"
cp /var/lib/dpkg/status "$home/apt/status" # apt locks the directory that it is in
{
	apt update && apt --download-only install "$@"
} >"$home/log" 2>&1 || {
	tail -n 5 "$home/log" >&2
	fail "cannot fetch $*; see $home/log"
}
for deb in "$home"/apt/cache/archives/*.deb; do
	dpkg-deb -x "$deb" "$home/root"
done
rm -rf "$home/apt"
printf '%s\n' "$want" >"$home/stamp"
