#!/usr/bin/env bash
# Measures each kind of sink at a peer, by `sluice bench --sink` with the recipe of its use, and prints one table:
#     scripts/bench-sinks.sh            5000 events each
#     EVENTS=20000 REPEAT=3 scripts/bench-sinks.sh any-http lms-xapi      medians of three runs each
# Build it first (cargo build --release), or name another binary in SLUICE. Peers are those of `make peers`; a recipe that is not there, or
# whose peer is not installed, is left out, and said to be. DATABASE_URL names the server; without it, each run has a private one.
set -euo pipefail
cd "$(dirname "$0")/.."

events=${EVENTS:-5000}
sluice=${SLUICE:-target/release/sluice}
[ -x "$sluice" ] || { echo "$sluice is not there: cargo build --release, or name the binary in SLUICE" >&2; exit 1; }
only=("$@")
dir=$(mktemp -d)
peers=()
failed=0
: >"$dir/table"
finish() {
    for pid in "${peers[@]+"${peers[@]}"}"; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT TERM

# The sinks are never asked for it, but the recipes are checked as a whole.
export MINDTICKLE_WEBHOOK_SECRET=bench ANY_SIGNING_SECRET=whsec_YmVuY2g=

# python PEER: its interpreter, or nothing.
python() { if [ -x ".peers/$1/bin/python" ]; then echo ".peers/$1/bin/python"; fi; }

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# start PORT COMMAND…: runs a peer until the end, and waits until it listens.
start() {
    local port=$1; shift
    "$@" >"$dir/peer.log" 2>&1 &
    peers+=($!)
    for _ in $(seq 300); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then return; fi
        sleep 0.1
    done
    echo "this peer does not listen: $*" >&2
    tail -5 "$dir/peer.log" >&2
    return 1
}

wanted() {
    local name
    [ ${#only[@]} -eq 0 ] && return
    for name in "${only[@]}"; do [ "$name" = "$1" ] && return; done
    return 1
}

# unbound NAME: a copy of a recipe without its rate, and with loopback let in: what Slack and Teams put up with is not what is measured.
unbound() {
    sed -e '/^rate = /d' -e 's|^\[\[sink\]\]$|&\nallow = ["127.0.0.0/8"]|' "recipes/$1.toml" >"$dir/$1.toml"
    echo "$dir/$1.toml"
}

# measure NAME CONFIG SINK PEER [KEY=VALUE…]: one line of the table. PEER is for people; the rest goes into the environment.
measure() {
    local name=$1 config=$2 sink=$3 peer=$4; shift 4
    if ! env "$@" "$sluice" bench --yes --json --sink "$sink" --events "$events" --repeat "${REPEAT:-1}" --config "$config" >"$dir/report.json" 2>"$dir/errors"; then
        echo "$name: $(tail -1 "$dir/errors")" >&2
        failed=1
        return
    fi
    grep -v '^measuring\|^starting' "$dir/errors" >&2 || true
    python3 - "$dir/report.json" "$name" "$peer" <<'PY' >>"$dir/table"
import json, sys

report = json.load(open(sys.argv[1]))
figures = {figure["what"]: figure["value"] for figure in report["figures"]}
number = lambda what, digits=0: f"{figures[what]:,.{digits}f}" if what in figures else "–"
per_second, cpu = number("delivered"), number("CPU of the worker, a delivery")
tries = f'{number("a try, p50", 1)}, {number("a try, p99", 1)} ms'
batch = figures["deliveries tried"] / max(figures["in so many tries (a batch is one)"], 1)
other = ", ".join(f"{int(figures[what])} {what}" for what in ("skipped", "dead", "pending") if figures[what])
count = f'{int(figures["delivered in all"]):,}' + (f" ({other})" if other else "")
print(f'| `{report["sink"]["kind"]}` | {sys.argv[2]} | {sys.argv[3]} | {count} | {per_second} | {cpu} | {tries} | {batch:.1f} |')
PY
}

# recipe NAME PEER: whether there is something to measure; PEER is a folder of .peers, or - where none is needed.
recipe() {
    wanted "$1" || return 1
    if [ ! -e "recipes/$1.toml" ]; then echo "$1: left out, there is no such recipe" >&2; return 1; fi
    if [ "$2" != - ] && [ -z "$(python "$2")" ]; then echo "$1: left out, the peer $2 is not installed (make peers)" >&2; return 1; fi
}

port=$(free_port)
start "$port" python3 scripts/answer.py "$port"
http=http://127.0.0.1:$port
answerer='`scripts/answer.py`, one process'
if recipe any-http -; then measure any-http recipes/any-http.toml any "$answerer" "ANY_URL=$http/hook"; fi
if recipe coaching-slack -; then
    measure coaching-slack "$(unbound coaching-slack)" coaching "$answerer, no rate" "SLACK_WEBHOOK_URL=$http/hook"
fi
if recipe manager-teams -; then
    measure manager-teams "$(unbound manager-teams)" manager "$answerer, no rate" "TEAMS_WEBHOOK_URL=$http/hook"
fi
if recipe leaderboards -; then measure leaderboards recipes/leaderboards.toml figures "the same PostgreSQL"; fi
if recipe lms-xapi ralph; then
    port=$(free_port)
    mkdir "$dir/lrs"
    start "$port" "$(python ralph)" tests/sinks/lrs.py "$dir/lrs" "$port"
    measure lms-xapi recipes/lms-xapi.toml lms "Ralph 5.1.0 on files, one process" "LRS_URL=http://127.0.0.1:$port/xAPI"
fi
if recipe idp-scim scim; then
    port=$(free_port)
    start "$port" .peers/scim/bin/scim2-server --port "$port" --bearer-token bench
    curl -sf -o /dev/null -H 'authorization: Bearer bench' -H 'content-type: application/scim+json' "http://127.0.0.1:$port/v2/Groups" \
        -d '{"schemas":["urn:ietf:params:scim:schemas:core:2.0:Group"],"displayName":"Re-certification"}'
    measure idp-scim recipes/idp-scim.toml idp "scim2-server 0.8.3" "SCIM_URL=http://127.0.0.1:$port/v2" SCIM_TOKEN=bench
fi
if recipe manager-email smtp; then
    port=$(free_port)
    start "$port" .peers/smtp/bin/aiosmtpd -n -l "127.0.0.1:$port" -c aiosmtpd.handlers.Sink
    measure manager-email recipes/manager-email.toml low-scores "aiosmtpd 1.4.6" "SMTP_URL=smtp://127.0.0.1:$port"
fi
if recipe archive-s3 moto; then
    port=$(free_port)
    start "$port" .peers/moto/bin/moto_server -H 127.0.0.1 -p "$port"
    curl -sf -o /dev/null -X PUT "http://127.0.0.1:$port/events"
    measure archive-s3 recipes/archive-s3.toml archive "moto 5.2.5" \
        "S3_ENDPOINT=http://127.0.0.1:$port"
fi
stub=$(dirname "$sluice")/examples/stub_salesforce
if recipe crm-salesforce -; then
    if [ -x "$stub" ]; then
        port=$(free_port)
        start "$port" "$stub" "127.0.0.1:$port"
        measure crm-salesforce recipes/crm-salesforce.toml crm "the tests' stub" "SALESFORCE_URL=http://127.0.0.1:$port"
    else
        echo "crm-salesforce: left out, $stub is not there (cargo build --release --example stub_salesforce)" >&2
    fi
fi

# Without a peer: what Sluice itself does a delivery.
printf '[[sink]]\nname = "%s"\nkind = "%s"\n%s\n' file file "path = \"$dir/events.ndjson\"" null null "" >"$dir/plain.toml"
if wanted file; then measure file "$dir/plain.toml" file "the file system"; fi
if wanted null; then measure null "$dir/plain.toml" null "–"; fi

echo "| kind | recipe | peer | delivered | a second | CPU µs a delivery | a try: p50, p99 | deliveries a try |"
echo "| --- | --- | --- | --- | --- | --- | --- | --- |"
cat "$dir/table"
exit "$failed"
