#!/usr/bin/env bash
# Fuzzes each target of fuzz/, or those that are named, for FUZZ_SECONDS (30) each:
#     scripts/fuzz.sh [TARGET…]
# What is found lies in fuzz/artifacts, and is tried again with: cargo fuzz run --dev --sanitizer none TARGET FILE
set -euo pipefail
cd "$(dirname "$0")/.."

CARGO_FUZZ_VERSION=0.13.2
cargo fuzz --version >/dev/null 2>&1 || { echo "cargo-fuzz is missing: cargo install --locked cargo-fuzz --version $CARGO_FUZZ_VERSION" >&2; exit 1; }

# The same versions as Sluice itself; what fuzzing adds is resolved on top of them.
if [ Cargo.lock -nt fuzz/Cargo.lock ]; then cp Cargo.lock fuzz/Cargo.lock; fi

# Without a sanitizer it works on the stable toolchain. There is no unsafe code here for one to watch.
options=(--dev --sanitizer none)
targets=("$@")
[ $# -gt 0 ] || targets=(verifier config)
for target in "${targets[@]}"; do
    cargo fuzz build "${options[@]}" "$target"
done
for target in "${targets[@]}"; do
    mkdir -p "fuzz/corpus/$target"
    cargo fuzz run "${options[@]}" "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
        -dict="fuzz/$target.dict" -max_total_time="${FUZZ_SECONDS:-30}" -max_len=4096 -timeout=5 -verbosity=0 -print_final_stats=1 </dev/null
done
