# shellcheck shell=bash
# Sourced by the scripts beside it: strict mode, where things are, messages, and the set-up's lock.
set -euo pipefail

scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$scripts")
cache=$root/.cache
# shellcheck disable=SC2034  # for the scripts that source this
python=${PYTHON:-python3}

say() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

# fail WHAT [HOW-TO-GO-ON]...: one line each.
fail() {
    say "error: $1"
    shift
    [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
    exit 1
}

# The digest of the given files: a stamp that equals it means "made from exactly these".
digest_of() {
    cat -- "$@" | sha256sum | cut -d' ' -f1
}

# is_current FOLDER DIGEST: a folder carries its stamp inside, so both appear in one rename.
is_current() {
    [ "$(cat -- "$1/.stamp" 2>/dev/null)" = "$2" ]
}

# Two set-ups of one checkout take turns; the lock goes with the process, however it ends.
lock_cache() {
    mkdir -p "$cache"
    exec 9>"$cache/setup.lock"
    flock -w 1800 9 || fail "another set-up has held $cache/setup.lock for 30 minutes" \
        "see which one with: fuser $cache/setup.lock"
}

# publish PARTIAL TARGET: the finished folder replaces the old one.
publish() {
    rm -rf -- "$2"
    mv -T -- "$1" "$2"
}
