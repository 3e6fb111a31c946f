#!/usr/bin/env bash
# A peer in an environment of its own, tried by a line of Python: benchmarks/_peer_env.sh NAME TRIAL [folder]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${3:-$here/../.venv-$1}
uv=$here/../.uv/bin/uv
if uv --version >/dev/null 2>&1; then uv=uv; fi
"$uv" venv --quiet --clear --no-project --python 3.12 "$folder"
"$uv" pip install --quiet --python "$folder/bin/python" --require-hashes --no-deps \
  --requirement "$here/requirements-$1.txt"
"$folder/bin/python" -W ignore -c "$2"
