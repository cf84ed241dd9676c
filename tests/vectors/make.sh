#!/usr/bin/env bash
# Makes tests/vectors/sources.json anew: requests as the vendors publish them, or as the vendors' own libraries sign or accept them.
# Needs python3 and npm, and the network. The versions are pinned; what was published is checked with the libraries as well.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install standardwebhooks==1.1.0 stripe==16.1.0 slack_sdk==3.47.0
npm install --silent --prefix "$work" @octokit/webhooks-methods@6.0.0 @shopify/shopify-api@13.1.0 >&2
cp accept.mjs "$work"
"$work/venv/bin/python" make.py "$work" > sources.json
