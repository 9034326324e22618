#!/bin/sh
# Writes the lock files anew: every version with its hashes, and no address of any registry.
# A name may be given as an argument to upgrade only that package.
set -eu
cd "$(dirname "$0")/.."
upgrade=${1:+--upgrade-package $1}
compile() {
    # shellcheck disable=SC2086 # words on purpose: the option may be absent
    .tools/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-header $upgrade "$@"
}
compile requirements/tools.in -o requirements/tools.txt
compile requirements/build.in -o requirements/build.txt
compile requirements/node.in -o requirements/node.txt
# opencv-python overwrites the files of opencv-python-headless, which is what we use.
compile pyproject.toml --override requirements/override.in -o requirements/run.txt
compile pyproject.toml --override requirements/override.in --extra test -o requirements/test.txt
compile pyproject.toml --override requirements/override.in --extra otel -o requirements/otel.txt
# Of the image detect-gpu; `otel.txt` is that of the image core (Dockerfile).
compile pyproject.toml --override requirements/override.in --extra yolo --extra otel \
    -o requirements/gpu.txt
compile pyproject.toml --override requirements/override.in --extra yolo -o requirements/yolo.txt
if grep -n '://' requirements/*.txt; then
    echo "A lock file names an address; see above." >&2
    exit 1
fi
