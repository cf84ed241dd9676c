#!/usr/bin/env bash
# Prints the folder that holds PostgreSQL's initdb and postgres; fails, silently, where there is none. Looks where the
# binary itself looks: PATH, pg_config, the usual places (newest first).
set -euo pipefail

candidates() {
    local program
    program=$(command -v initdb) && dirname "$program"
    pg_config --bindir 2>/dev/null || true
    printf '%s\n' \
        /usr/lib/postgresql/*/bin /usr/pgsql-*/bin \
        /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin \
        /Applications/Postgres.app/Contents/Versions/*/bin | sort -rV
}

while read -r dir; do
    if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ]; then
        # A link in PATH leads to the folder where psql and pg_ctl of the same version are too.
        dirname "$(readlink -f "$dir/postgres")"
        exit 0
    fi
done < <(candidates)
exit 1
