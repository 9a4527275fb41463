#!/bin/sh
# setup-chromium.sh
#
# Makes .cache/chromium/bin/chromium, the browser that conformance/browser
# drives: the one of this machine where there is one, else Debian's, fetched
# by apt-get on a state of its own and unpacked below .cache/chromium. Nothing
# of the system is read but apt's sources and the list of what is installed,
# nothing of it is changed, and no root is needed. Doing it again costs nothing.
# CHROMIUM names another browser than chromium.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
home=$root/.cache/chromium
browser=${CHROMIUM:-chromium}

say() { printf 'setup-chromium: %s\n' "$*"; }
fail() {
	printf 'setup-chromium: %s\n' "$*" >&2
	exit 1
}

mkdir -p "$home/bin"
if command -v flock >/dev/null 2>&1; then
	exec 9>"$home/lock"
	flock 9
fi

# A sandbox of the browser's own needs user namespaces, and Chromium refuses
# one to root. Without it pages of a server under test run with all rights of
# this user: say so.
flags=
if [ "$(id -u)" = 0 ]; then
	flags=--no-sandbox
	why="it runs as root"
elif ! unshare --user true 2>/dev/null; then
	flags=--no-sandbox
	why="this user may make no user namespace"
fi

# The wrapper is written anew each time: who runs this may have changed.
finish() {
	"$home/bin/chromium" --version >"$home/log" 2>&1 ||
		fail "chromium does not start: $(tail -n 1 "$home/log")"
	say "$(sed -n "1s/ *$//p" "$home/log")${flags:+, without a sandbox of its own: $why}"
}

if found=$(command -v "$browser" 2>/dev/null); then
	printf '#!/bin/sh\nexec "%s" %s "$@"\n' "$found" "$flags" >"$home/bin/chromium"
	chmod +x "$home/bin/chromium"
	finish
	exit
fi
[ "$browser" = chromium ] || fail "there is no $browser"

for tool in apt-get dpkg dpkg-deb; do
	command -v $tool >/dev/null 2>&1 ||
		fail "there is neither chromium nor $tool: install chromium, or set CHROMIUM to a browser of its family"
done

apt() {
	LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get -q -y \
		-o "Dir::State=$home/apt/state" -o "Dir::State::status=$home/apt/status" \
		-o "Dir::Cache=$home/apt/cache" -o APT::Sandbox::User=root \
		-o APT::Install-Recommends=false -o Acquire::Languages=none -o Acquire::Retries=3 "$@"
}

# unpack fetches what chromium needs and this machine has not, and lays it out.
unpack() {
	say "fetching Debian's chromium into .cache/chromium (100 MB, once)"
	rm -rf "$home/apt" "$home/root"
	mkdir -p "$home/apt/state/lists/partial" "$home/apt/cache/archives/partial" "$home/root"
	cp /var/lib/dpkg/status "$home/apt/status" # apt locks the directory that it is in
	{
		apt update && apt --download-only install chromium fonts-dejavu-core
	} >"$home/log" 2>&1 || {
		tail -n 5 "$home/log" >&2
		fail "cannot fetch chromium; see .cache/chromium/log"
	}
	for deb in "$home"/apt/cache/archives/*.deb; do
		dpkg-deb -x "$deb" "$home/root"
	done
	rm -rf "$home/apt"
}

# shellcheck source=/dev/null
want="$(dpkg --print-architecture) $(. /etc/os-release && printf %s "${VERSION_CODENAME:-$ID}")"
if [ "$(cat "$home/stamp" 2>/dev/null)" != "$want" ]; then
	unpack
	printf '%s\n' "$want" >"$home/stamp"
fi

triple=$(cd "$home/root/usr/lib" && for d in *-linux-gnu*; do printf %s "$d" && break; done)
mkdir -p "$home/fontcache"
cat >"$home/fonts.conf" <<CONF
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir>$home/root/usr/share/fonts</dir>
  <dir>/usr/share/fonts</dir>
  <cachedir>$home/fontcache</cachedir>
  <alias><family>sans-serif</family><prefer><family>DejaVu Sans</family></prefer></alias>
  <alias><family>serif</family><prefer><family>DejaVu Serif</family></prefer></alias>
  <alias><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
</fontconfig>
CONF
cat >"$home/bin/chromium" <<WRAPPER
#!/bin/sh
export LD_LIBRARY_PATH="$home/root/usr/lib/$triple:$home/root/lib/$triple:$home/root/usr/lib/$triple/pulseaudio"
export FONTCONFIG_FILE="$home/fonts.conf"
export XDG_DATA_DIRS="$home/root/usr/share:/usr/share"
exec "$home/root/usr/lib/chromium/chromium" $flags "\$@"
WRAPPER
chmod +x "$home/bin/chromium"
finish
