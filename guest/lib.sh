# shellcheck shell=bash disable=SC2034,SC2154
#
# Shared by the scripts that build guest images. Everything comes from Debian packages, through apt.
# A finished image is a directory in the cache, named after a hash of its recipe: changing a script here
# makes a new image, and an image once built needs neither network nor time again.

guest_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache_dir=${OUTRIGGER_CACHE:-${XDG_CACHE_HOME:-~/.cache}/outrigger}

say() {
    printf 'guest: %s\n' "$*" >&2
}

# The last lines of a step's log, when the step failed.
quietly() {
    local log=$work/log
    if ! "$@" >"$log" 2>&1; then
        say "this step failed: $*"
        tail -n 30 "$log" >&2
        return 1
    fi
}

# Package lists may be missing on a fresh machine.
apt_ready() {
    [ -n "$(apt-cache show --no-all-versions linux-image-cloud-amd64 2>/dev/null)" ] && return
    say 'fetching the package lists'
    quietly apt-get -o DPkg::Lock::Timeout=300 update
}

# Unpacks the current Debian cloud kernel package into $1; its version is left in $kernel_version.
unpack_kernel() {
    local package
    apt_ready
    package=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" && $2 ~ /^linux-image-/ { print $2; exit }')
    [ -n "$package" ] || {
        say 'apt knows no package linux-image-cloud-amd64: is a Debian "main" source configured?'
        return 1
    }
    say "kernel: $package"
    mkdir -p "$work/deb" "$1"
    (cd "$work/deb" && quietly apt-get -o APT::Sandbox::User=root download "$package")
    dpkg -x "$work"/deb/"$package"_*.deb "$1"
    kernel_version=${package#linux-image-}
}
