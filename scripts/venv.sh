#!/bin/sh
# venv.sh DIR: makes a Python environment with pip in DIR, if there is none,
# and prints its interpreter. Debian ships python3 without ensurepip, so that
# `python3 -m venv` alone may fail there; then pip comes from Debian's package
# of its wheel, downloaded by apt without needing root.
# PYTHON names another interpreter than python3.
set -eu

dir=$1
python=${PYTHON:-python3}
interpreter=$dir/bin/python

if [ -x "$interpreter" ] && "$interpreter" -m pip --version >/dev/null 2>&1; then
	echo "$interpreter"
	exit 0
fi
rm -rf "$dir"
if "$python" -m venv "$dir" >/dev/null 2>&1; then
	echo "$interpreter"
	exit 0
fi
rm -rf "$dir"
"$python" -m venv --without-pip "$dir"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/lists/partial" "$scratch/cache/archives/partial"
private="-o Dir::State::lists=$scratch/lists -o Dir::Cache=$scratch/cache -o Debug::NoLocking=1 -o APT::Sandbox::User="
# shellcheck disable=SC2086 # the options are words
{
	apt-get -qq $private update
	cd "$scratch"
	apt-get -qq $private download python3-pip-whl
} >&2 || {
	echo "venv.sh: $python has no ensurepip, and apt cannot download pip; install python3-venv" >&2
	exit 1
}
cd - >/dev/null
dpkg-deb -x "$scratch"/python3-pip-whl_*.deb "$scratch/pip"
wheel=$(echo "$scratch"/pip/usr/share/python-wheels/pip-*.whl)
"$interpreter" "$wheel/pip" install -q --no-index "$wheel" >&2
echo "$interpreter"
