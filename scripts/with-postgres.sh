#!/usr/bin/env bash
# Runs a command with a throwaway Postgres of its own, in SLUICE_TEST_DATABASE_URL:
#     scripts/with-postgres.sh cargo test
#     scripts/with-postgres.sh --migrated COMMAND…      the same in DATABASE_URL, with the migrations applied
# It builds nothing, so that it works also while the code does not compile.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

migrated=false
if [ "${1:-}" = --migrated ]; then
    migrated=true
    shift
fi
[ $# -gt 0 ] || { echo "usage: scripts/with-postgres.sh [--migrated] COMMAND…" >&2; exit 2; }

"$here/install-postgres.sh"
bin=$("$here/find-postgres.sh")
# Not TMPDIR: it may be closed to the user that the server runs as.
dir=$(mktemp -d /tmp/sluice-postgres.XXXXXX)

# PostgreSQL refuses to run as root.
as_server=()
if [ "$(id -u)" = 0 ]; then
    user=postgres
    id "$user" >/dev/null 2>&1 || user=nobody
    chown "$user" "$dir"
    as_server=(runuser -u "$user" --)
fi
server() { (cd "$dir" && exec ${as_server[@]+"${as_server[@]}"} "$@"); }

started=false
finish() {
    if $started; then server "$bin/pg_ctl" stop -D "$dir/data" -m immediate -s || true; fi
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT TERM

server "$bin/initdb" -D "$dir/data" -U postgres --auth=trust --encoding=UTF8 --locale=C >"$dir.log" 2>&1 || { cat "$dir.log" >&2; rm -f "$dir.log"; exit 1; }
rm -f "$dir.log"

# A port that is free now may be taken a moment later: try a few.
for _ in 1 2 3 4 5; do
    port=$((20000 + RANDOM % 12000))
    options="-c listen_addresses=127.0.0.1 -c port=$port -c unix_socket_directories='' -c max_connections=200"
    if server "$bin/pg_ctl" start -D "$dir/data" -l "$dir/server.log" -w -s -o "$options" >/dev/null 2>&1; then
        started=true
        break
    fi
done
$started || { echo "The throwaway Postgres does not start:" >&2; tail -5 "$dir/server.log" >&2; exit 1; }

export SLUICE_TEST_DATABASE_URL="postgres://postgres@127.0.0.1:$port/postgres"
if $migrated; then
    export DATABASE_URL="$SLUICE_TEST_DATABASE_URL"
    # PGOPTIONS keeps "schema exists" notices out of the way; psql reads no settings of the user's.
    sql() { PGOPTIONS='-c client_min_messages=warning' "$bin/psql" -X -q -v ON_ERROR_STOP=1 "$DATABASE_URL" "$@"; }
    sql -c 'create schema sluice'
    # The table that sqlx makes before the first migration.
    sql -c 'create table sluice.migrations (version bigint primary key, description text not null, installed_on timestamptz not null
            default now(), success boolean not null, checksum bytea not null, execution_time bigint not null)'
    for file in "$here"/../migrations/*.sql; do
        sql -1 -f "$file"
    done
fi
"$@"
