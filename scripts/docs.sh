#!/usr/bin/env bash
# Writes the files that are generated from the code and committed anew: the configuration with every key, its schema and reference, the
# tables of translations, and the OpenAPI document of the admin API. Tests fail while one of them is out of date.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

cargo build --locked --bin can
for page in default:conf/can.yaml schema:conf/can.schema.json reference:docs/configuration.md dialects:docs/dialects.md; do
    file=${page#*:}
    # What fails leaves the old file as it is.
    target/debug/can config "${page%%:*}" > "$file.new" && mv "$file.new" "$file"
    say "$file"
done
CAN_UPDATE_DOCS=1 cargo test --locked --quiet -p chittycan-gateway --lib admin::openapi
say docs/admin-openapi.json
