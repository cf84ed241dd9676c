#!/usr/bin/env bash
# Asks every command of the binary, and every command below it, for its --help: each must answer, with a usage line.
#     scripts/check-help.sh target/debug/sluice
set -euo pipefail
bin=$1
count=0

check() {
    local help commands command
    help=$("$bin" "$@" --help) || { echo "failed: sluice $* --help" >&2; exit 1; }
    grep -q '^Usage:' <<<"$help" || { echo "no usage line: sluice $* --help" >&2; exit 1; }
    count=$((count + 1))
    # Commands are listed under "Commands:", two spaces in, up to the next heading.
    commands=$(awk '/^[A-Z].*:$/ { on = ($0 == "Commands:") } on && /^  [a-z]/ { print $1 }' <<<"$help")
    for command in $commands; do
        if [ "$command" != help ]; then check "$@" "$command"; fi
    done
}

check
if [ "$count" -lt 2 ]; then
    echo "sluice --help lists no commands" >&2
    exit 1
fi
echo "$count commands answer --help."
