#!/bin/sh
# Prints the folder of a Node.js of at least version 20, which drives Chromium in tests/web. Where
# the machine has none, one comes from the Python package registry into .tools/node (setup/bootstrap.py
# has made .tools/ by then).
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
    .tools/bin/uv venv -q --clear --python .venv/bin/python .tools/node >&2
    .tools/bin/uv pip install -q --python .tools/node/bin/python --require-hashes \
        -r requirements/node.txt >&2
fi
recent "$here/node" || { echo "Node.js in .tools/node does not run here." >&2; exit 1; }
echo "$here"
