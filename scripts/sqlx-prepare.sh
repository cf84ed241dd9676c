#!/usr/bin/env bash
# Asks a freshly migrated Postgres about every query in the code, and writes what it says to .sqlx, from which plain builds take
# it. With --check it changes nothing, and fails where .sqlx is not what it would write.
set -euo pipefail
cd "$(dirname "$0")/.."

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
# Compiling again is what runs the macros.
touch src/lib.rs
SQLX_OFFLINE=false SQLX_OFFLINE_DIR=$fresh scripts/with-postgres.sh --migrated cargo check --quiet --all-targets --all-features

if [ "${1:-}" = --check ]; then
    if ! diff -rq .sqlx "$fresh"; then
        echo ".sqlx is not up to date with the queries and the migrations: run \`make sqlx\` and commit what it changes." >&2
        exit 1
    fi
else
    mkdir -p .sqlx
    rm -f .sqlx/query-*.json
    cp "$fresh"/query-*.json .sqlx/
    echo ".sqlx holds $(find .sqlx -name 'query-*.json' | wc -l | tr -d ' ') queries."
fi
