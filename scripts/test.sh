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
# As it is shipped, but for the time that full optimisation takes: dependencies of tests turn features of others on.
can=$PWD/target/quick-release/can
step binary cargo build --locked --profile quick-release --bin can
step sdks env CAN_BIN="$can" python3 tests/sdk/run.py
step instructions python3 benches/instructions.py --binary "$can"
say "all passed in $((SECONDS - began)) s"
