# Shared by the scripts: where caches lie, how steps are timed and told. Sourced, not run.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Root's own home is closed to the users that the scenarios run programs as.
if [ "$(id -u)" = 0 ]; then own_cache=/var/cache; else own_cache=${XDG_CACHE_HOME:-$HOME/.cache}; fi
cache=${DAYFLY_CACHE:-$own_cache/dayfly}

# What tests and demo build: binaries that can be told to die at named points and run in a development trust domain. What
# ships can neither. One list, so that nothing is built twice.
features=dayfly-broker/fault-points,dayfly-agent/fault-points,dayfly-broker/dev,dayfly-agent/dev,dayfly/dev

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# need COMMAND HOW-TO-GET-IT
need() { command -v "$1" >/dev/null || die "$1 is not on the PATH: $2"; }

step_times=()

# step NAME COMMAND…: runs it and tells how long it took. A failure ends the script, through `set -e`; the trap tells where.
step() {
    step_now=$1
    step_started=$SECONDS
    printf '\n==> %s\n' "$step_now"
    shift
    "$@"
    step_over ok
}

step_over() {
    local took=$((SECONDS - step_started))
    step_times+=("$(printf '%6d s  %s' "$took" "$step_now")")
    printf '==> %s: %s, %d s\n' "$step_now" "$1" "$took"
    step_now=
}

step_now=
step_started=0
step_failed() {
    local status=$?
    if [ -n "$step_now" ]; then
        step_over FAILED
        tell_times
    fi
    exit "$status"
}
trap step_failed EXIT

tell_times() {
    printf '\nTime of each step:\n'
    printf '%s\n' "${step_times[@]}"
    printf '%6d s  together\n' "$SECONDS"
}

# made_once FOLDER COMMAND…: runs the command, which fills the folder named to it last, unless the folder is there already.
# Two runs at once take turns; a folder that is there is whole, for it is renamed into place.
made_once() {
    local folder=$1
    shift
    [ ! -d "$folder" ] || return 0
    mkdir -p "$(dirname "$folder")"
    exec 8>"$folder.lock"
    flock 8
    if [ ! -d "$folder" ]; then
        rm -rf "$folder.new"
        mkdir "$folder.new"
        "$@" "$folder.new"
        mv -T "$folder.new" "$folder"
    fi
    exec 8>&-
}
