#!/usr/bin/env bash
# The other command: builds the gateway and runs it with the simulated provider behind it, so that it answers with no
# key and no network. Arguments go to `can serve`, for example: scripts/run.sh --config conf/can.yaml
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

scripts/setup.sh build
say "building the gateway (the first time takes some minutes)"
# With little optimisation: on two cores this took 430 s from nothing, and a release build 12 minutes.
cargo build --locked --profile quick-release --bin can
listen=${CAN_LISTEN:-127.0.0.1:8080}
cat <<EOF
==> the gateway listens on http://$listen; try it from another terminal:

    curl http://$listen/v1/chat/completions -H 'content-type: application/json' -H 'authorization: Bearer sk-anything' \\
      -d '{"model":"gpt-4o","messages":[{"role":"user","content":"Say hello in 3 words."}]}'

EOF
exec target/quick-release/can serve --simulate "$@"
