#!/usr/bin/env bash
# scBIOT in an environment of its own (its pins exclude ours): benchmarks/scbiot_env.sh [folder]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-$here/../.venv-scbiot}
uv=$here/../.uv/bin/uv
if uv --version >/dev/null 2>&1; then uv=uv; fi
"$uv" venv --quiet --clear --no-project --python 3.12 "$folder"
"$uv" pip install --quiet --python "$folder/bin/python" --require-hashes --no-deps \
  --requirement "$here/requirements-scbiot.txt"
"$folder/bin/python" -c "import scbiot.ot; print('scBIOT', scbiot.__version__)"
