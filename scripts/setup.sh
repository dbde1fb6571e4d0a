#!/usr/bin/env bash
# Installs what is missing on a Debian or Ubuntu machine, and only that.
#
#   scripts/setup.sh build   what `scripts/run.sh` needs: a C compiler, cmake, curl, Rust
#   scripts/setup.sh test    also what `scripts/test.sh` needs: Node.js and npm, valgrind, cargo-nextest, cargo-deny, and
#                            the packages of tests/sdk in node_modules and .cache/sdk
#
# It may be run again at any time; what is there stays. On other systems it names what is missing and stops.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

goal=${1:-test}
case $goal in build | test) ;; *) die "usage: scripts/setup.sh [build|test]" ;; esac

main() {
    system_packages
    rust
    if [ "$goal" = test ]; then
        cargo_tool cargo-nextest 0.9.143 --no-default-features --features default-no-update
        cargo_tool cargo-deny 0.20.2 --no-default-features
        node_packages tests/sdk/node
        python_packages python
        python_packages python-legacy
        python_packages dialects-python
    fi
}

# Debian's packages behind the commands that are missing, in one apt run.
system_packages() {
    local wanted=()
    has cc && has make || wanted+=(build-essential)
    has cmake || wanted+=(cmake) # zlib-ng, which Pingora links
    has pkg-config || wanted+=(pkg-config)
    has curl || wanted+=(curl ca-certificates)
    has git || wanted+=(git)
    if [ "$goal" = test ]; then
        has python3 || wanted+=(python3)
        { has python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; } || wanted+=(python3-venv)
        has node || wanted+=(nodejs)
        has npm || wanted+=(npm)
        has valgrind || wanted+=(valgrind) # benches/instructions.py
    fi
    [ ${#wanted[@]} -gt 0 ] || return 0

    has apt-get || die "missing: ${wanted[*]} (Debian's names). Install them with this system's package manager."
    local root=()
    if [ "$(id -u)" != 0 ]; then
        has sudo && sudo -n true 2>/dev/null && root=(sudo -n) ||
            die "missing: ${wanted[*]}. Install them: sudo apt-get update && sudo apt-get install -y ${wanted[*]}"
    fi
    say "installing from Debian's packages: ${wanted[*]}"
    "${root[@]}" apt-get update -qq
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null
}

# The toolchain of rust-version in Cargo.toml or newer, with rustfmt and clippy.
rust() {
    local wanted have
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    if ! has cargo; then
        say "installing Rust with rustup"
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
            sh -s -- -y -q --no-modify-path --profile minimal --component rustfmt --component clippy
        hash -r
    fi
    have=$(rustc --version | cut -d' ' -f2)
    [ "$(printf '%s\n%s\n' "$wanted" "$have" | sort -V | head -n 1)" = "$wanted" ] ||
        die "Rust $have is older than $wanted. Update it: rustup update stable"
    if [ "$goal" = test ]; then
        for component in fmt clippy; do
            cargo $component --version >/dev/null 2>&1 || {
                say "adding $component to the toolchain"
                rustup component add "${component/fmt/rustfmt}"
            }
        done
    fi
}

# A cargo tool of this project's own, in .cache/tools, unless the machine has one. Compiled without optimisation: these
# tools run for seconds, and that build takes a fifth of the time.
cargo_tool() {
    local name=$1 version=$2
    shift 2
    has "$name" && return
    say "building $name $version into .cache/tools"
    CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=.cache/tools/target RUSTFLAGS= \
        cargo install --quiet --debug --locked --root .cache/tools --version "$version" "$@" "$name"
    rm -rf .cache/tools/target
}

# The packages of a package-lock.json. Their scripts are not run: none is needed.
node_packages() {
    local stamp
    stamp=$(cat "$1/package-lock.json" "$1/package.json" | digest)
    [ "$(cat "$1/node_modules/.installed" 2>/dev/null)" = "$stamp" ] && return
    say "installing the packages of $1"
    # The engine warning is answered by support/node22.mjs.
    (cd "$1" && npm ci --ignore-scripts --no-fund --no-audit --loglevel=error)
    echo "$stamp" >"$1/node_modules/.installed"
}

# The environment of one Python suite, named by the hash of its requirements so that a change makes a new one.
python_packages() {
    local file="tests/sdk/$1/requirements.txt" place
    place=".cache/sdk/$1-$(digest <"$file" | cut -c1-12)"
    [ -e "$place/.ready" ] && return
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "the Python suites need Python 3.11 or newer; python3 is $(python3 --version 2>&1)"
    say "making the environment $place"
    rm -rf .cache/sdk/"$1"-*
    python3 -m venv "$place"
    "$place/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: -r "$file"
    touch "$place/.ready"
}

main
