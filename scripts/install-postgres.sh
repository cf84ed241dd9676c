#!/usr/bin/env bash
# Makes sure that PostgreSQL's server binaries are installed, and says so before it installs anything. Sluice runs a server of
# its own from them; a service that the package may set up beside it is not used.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

if "$here/find-postgres.sh" >/dev/null; then
    exit 0
fi

if [ "$(id -u)" = 0 ]; then sudo=(); else sudo=(sudo); fi
if command -v apt-get >/dev/null; then
    install=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postgresql)
    refresh=("${sudo[@]}" apt-get update -q)
elif command -v brew >/dev/null; then
    install=(brew install postgresql@17)
    refresh=(true)
else
    echo "No PostgreSQL server found, and neither apt-get nor brew to install one with." >&2
    echo "Install PostgreSQL 14 or newer with this system's own tool, or set DATABASE_URL to a server that runs already." >&2
    exit 1
fi
if [ "${install[0]}" = sudo ] && ! command -v sudo >/dev/null; then
    echo "No PostgreSQL server found. As root, run: ${install[*]:1}" >&2
    exit 1
fi

echo "No PostgreSQL server found. Installing one: ${install[*]}" >&2
"${refresh[@]}" >&2
"${install[@]}" >&2
"$here/find-postgres.sh" >/dev/null || { echo "It was installed, but initdb and postgres are still not to be found." >&2; exit 1; }
