#!/usr/bin/env bash
# Installs the servers that the tests of sinks deliver to, from PyPI and npm, into .peers/ (which git ignores), each in an environment of its own:
#     scripts/peers.sh            all of them; what is there already stays
# A test whose peer is missing says so and passes, but where SLUICE_TEST_PEERS is set.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "the peers need Python 3.10 or newer; name one in PYTHON" >&2; exit 1; }

# peer NAME REQUIREMENT…
peer() {
    local name=$1; shift
    local stamp=".peers/$name/installed"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$*" ]; then return; fi
    echo "installing the peer $name: $*" >&2
    rm -rf ".peers/$name"
    "$python" -m venv ".peers/$name"
    ".peers/$name/bin/pip" install --quiet --disable-pip-version-check "$@"
    echo "$*" >"$stamp"
}

peer ralph 'ralph-malph[full]==5.1.0'           # LRS: xapi
peer scim 'scim2-server==0.8.3'                 # SCIM
peer canaille 'canaille[server,scim]==0.3.6'    # OAuth tokens
peer smtp 'aiosmtpd==1.4.6'                     # mail
peer moto 'moto[server]==5.2.5'                 # S3

# Needs Node.js 20 or newer; npm comes with it.
node_peer() {
    local name=$1; shift
    local stamp=".peers/$name/installed"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$*" ]; then return; fi
    echo "installing the peer $name: $*" >&2
    command -v npm >/dev/null || { echo "the peer $name needs Node.js with npm" >&2; exit 1; }
    rm -rf ".peers/$name"
    mkdir -p ".peers/$name"
    npm install --prefix ".peers/$name" --silent --no-fund --no-audit --no-save --ignore-scripts "$@" >&2
    echo "$*" >"$stamp"
}

node_peer azurite azurite@3.37.0                # Azure Blob Storage
