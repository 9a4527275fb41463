#!/bin/sh
# setup-nginx.sh
#
# Makes .cache/nginx/bin/nginx, the reverse proxy that the black-box tests put
# before the gateway: the one of this machine where there is one, else Debian's,
# unpacked below .cache/nginx, as root and as an ordinary user alike. Where it
# cannot be had that is said as NOT CHECKED: the tests do without it, and say so
# too. Doing it again costs nothing. NGINX names another program than nginx.
set -eu

cd "$(dirname "$0")/.."
mkdir -p .cache/nginx/bin
home=$(cd .cache/nginx && pwd -P)
program=$home/bin/nginx

without() {
	rm -f "$program"
	echo "!! NOT CHECKED: clients through nginx: $*" >&2
	exit 0
}

if command -v flock >/dev/null 2>&1; then
	exec 9>"$home/lock"
	flock 9
fi

# An ordinary user has no /usr/sbin in PATH.
if found=$(PATH=$PATH:/usr/sbin:/usr/local/sbin command -v "${NGINX:-nginx}" 2>/dev/null); then
	printf '#!/bin/sh\nexec "%s" "$@"\n' "$found" >"$program.new"
else
	[ -z "${NGINX:-}" ] || without "there is no $NGINX"
	scripts/unpack-debian.sh "$home" nginx ||
		without "install nginx, or set NGINX to one, or let apt-get reach Debian's packages; then run scripts/setup-nginx.sh again"
	libraries=$(for d in "$home"/root/usr/lib/*-linux-gnu* "$home"/root/lib/*-linux-gnu*; do [ ! -d "$d" ] || printf '%s:' "$d"; done)
	cat >"$program.new" <<WRAPPER
#!/bin/sh
export LD_LIBRARY_PATH="${libraries%:}"
exec "$home/root/usr/sbin/nginx" "\$@"
WRAPPER
fi
chmod +x "$program.new"
mv -f "$program.new" "$program"
version=$("$program" -v 2>&1) || without "it does not start: $version"
printf 'setup-nginx: %s\n' "$version"
