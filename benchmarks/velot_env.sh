#!/usr/bin/env bash
# VelOT, scVelo and CellRank in an environment of their own: benchmarks/velot_env.sh [folder]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-$here/../.venv-velot}
uv=$here/../.uv/bin/uv
if uv --version >/dev/null 2>&1; then uv=uv; fi
"$uv" venv --quiet --clear --no-project --python 3.12 "$folder"
"$uv" pip install --quiet --python "$folder/bin/python" --require-hashes --no-deps \
  --requirement "$here/requirements-velot.txt"
"$folder/bin/python" -W ignore -c "import velot, scvelo, cellrank; print('VelOT', velot.__version__)"
