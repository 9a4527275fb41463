#!/bin/sh
# setup-chromium.sh
#
# Makes .cache/chromium/bin/chromium, the browser that conformance/browser
# drives: the one of this machine where there is one, else Debian's, unpacked
# below .cache/chromium (100 MB, once). No root is needed. Doing it again costs
# nothing. CHROMIUM names another browser than chromium.
set -eu

cd "$(dirname "$0")/.."
root=$PWD
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

scripts/unpack-debian.sh "$home" chromium fonts-dejavu-core ||
	fail "there is no chromium, and Debian's cannot be had: install chromium, or set CHROMIUM to a browser of its family"

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
