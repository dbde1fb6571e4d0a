#!/usr/bin/env bash
# The test command: sets a fresh machine up, then runs every check of the project. Stops at the first failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

began=$SECONDS

# Runs one step and says how long it took.
step() {
    local name=$1 since=$SECONDS
    shift
    say "$name: $*"
    "$@" || die "$name failed after $((SECONDS - since)) s"
    say "$name: passed in $((SECONDS - since)) s"
}

step set-up scripts/setup.sh test
# The fastest checks come first.
step format cargo fmt --all --check
step licences cargo deny --log-level error check licenses bans sources
step clippy cargo clippy --locked --workspace --all-targets -- -D warnings
step tests cargo nextest run --locked --workspace
step doctests cargo test --locked --workspace --quiet --doc
step binary cargo build --locked --bin can
step sdks python3 tests/sdk/run.py
step instructions python3 benches/instructions.py
say "all passed in $((SECONDS - began)) s"
