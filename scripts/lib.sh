# Shared by the scripts of this folder; sourced from the repository's root.

export PATH="$PWD/.cache/tools/bin:${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

say() { printf '==> %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }
digest() { sha256sum | cut -d' ' -f1; }
