# What the scripts need that a distribution does not carry: each is made once, in a versioned folder of the cache, from a
# pinned list, and found again by its hash. Sourced after common.sh.
# shellcheck shell=bash

cargo_deny_version=0.20.2

# The Python environment. It is renamed into place, so its scripts' first lines are wrong: say `bin/python -m moto.server`.
python_folder() {
    local hash
    hash=$({ cat "$root/scripts/requirements.txt"; python3 --version; } | sha256sum | cut -c1-12)
    printf '%s/python-%s' "$cache" "$hash"
}

make_python() {
    need python3 "install Python 3.11 or newer"
    made_once "$(python_folder)" fill_python
}

# Debian's own before another on the PATH, which may lie in somebody's home.
any_users_python() {
    if /usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null; then echo /usr/bin/python3; else command -v python3; fi
}

fill_python() {
    say "python: installing $(grep -c == "$root/scripts/requirements.txt") pinned packages"
    "$(any_users_python)" -m venv "$1" || die "python3 -m venv failed: install python3-venv"
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$root/scripts/requirements.txt"
}

# The linter of the protos.
buf_folder() {
    printf '%s/node-%s' "$cache" "$(sha256sum <"$root/scripts/package-lock.json" | cut -c1-12)"
}

# The registry's package of the program itself, without the one that picks a platform by an install script.
buf() { "$(buf_folder)/node_modules/@bufbuild/buf-linux-$(uname -m | sed 's/x86_64/x64/')/bin/buf" "$@"; }

make_buf() {
    need npm "install Node.js with npm"
    made_once "$(buf_folder)" fill_buf
}

fill_buf() {
    say "buf: installing from the committed lock file"
    cp "$root"/scripts/package.json "$root"/scripts/package-lock.json "$1/"
    (cd "$1" && npm ci --include=optional --ignore-scripts --no-audit --no-fund --loglevel=error)
}

# The judge of licences, sources and banned crates. A source build of some minutes, once.
cargo_deny_folder() { printf '%s/cargo-deny-%s' "$cache" "$cargo_deny_version"; }

make_cargo_deny() { made_once "$(cargo_deny_folder)" fill_cargo_deny; }

fill_cargo_deny() {
    say "cargo-deny: building $cargo_deny_version from source (minutes)"
    local target
    target=$(mktemp -d)
    # No LTO and no debug info: it is run once per check.
    (cd / && CARGO_TARGET_DIR=$target CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        nice cargo install --quiet --locked --no-track --root "$1" --version "$cargo_deny_version" cargo-deny)
    rm -rf "$target"
}

# The folder of PostgreSQL's server programs, which Debian keeps off the PATH.
postgres_folder() {
    local found
    found=$(find /usr/lib/postgresql -mindepth 3 -maxdepth 3 -name initdb 2>/dev/null | sort -V | tail -n 1)
    [ -n "$found" ] || die "PostgreSQL's server programs are missing: apt-get install postgresql"
    dirname "$found"
}
