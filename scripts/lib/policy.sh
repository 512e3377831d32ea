# What the shipped crates may depend on, told from cargo's own graph. Sourced after common.sh.
# shellcheck shell=bash

# Ours is one rustls on aws-lc-rs: a second TLS or a second set of primitives is one more thing to patch in a hurry.
forbidden='ring openssl openssl-sys native-tls boring boring-sys aws-lc-fips-sys s2n-tls'
# What would make the domain do I/O, wait, or read a clock of its own accord.
impure='tokio async-std sqlx tonic prost hyper reqwest axum mio'

check_dependencies() {
    local faults=0 name graph tls
    graph=$(cargo tree --locked --workspace --exclude dayfly-tests --edges normal,build --prefix none --format '{p}' | sort -u)
    for name in $forbidden; do
        if grep -q "^$name v" <<<"$graph"; then
            say "$name is in the graph of the shipped crates: cargo tree --workspace -e normal,build -i $name"
            faults=1
        fi
    done

    tls=$(awk '$1 == "rustls" { print $1, $2 }' <<<"$graph" | sort -u)
    if [ "$(wc -l <<<"$tls")" -ne 1 ]; then
        say "not one rustls but: ${tls//$'\n'/, }"
        faults=1
    fi
    if cargo tree --locked --workspace --exclude dayfly-tests --edges normal --prefix none --format '{p} {f}' |
        grep '^rustls v' | grep -qw ring; then
        say "rustls has its feature 'ring' on"
        faults=1
    fi

    graph=$(cargo tree --locked --package dayfly-domain --edges normal --prefix none --format '{p}' | sort -u)
    for name in $impure; do
        if grep -q "^$name v" <<<"$graph"; then
            say "dayfly-domain is pure, yet it depends on $name"
            faults=1
        fi
    done
    for name in proto policy client broker agent cli sys devspiffe fakecloud; do
        if grep -q "^dayfly-$name v" <<<"$graph"; then
            say "dayfly-domain stands at the bottom, yet it depends on dayfly-$name"
            faults=1
        fi
    done

    for name in dayfly-broker dayfly-agent dayfly; do
        graph=$(cargo tree --locked --package "$name" --edges normal,build --prefix none)
        if grep -q '^dayfly-fakecloud v' <<<"$graph"; then
            say "dayfly-fakecloud is for tests, yet $name depends on it"
            faults=1
        fi
    done
    return $faults
}
