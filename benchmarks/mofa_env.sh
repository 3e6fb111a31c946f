#!/usr/bin/env bash
# MOFA in an environment of its own: benchmarks/mofa_env.sh [folder]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-$here/../.venv-mofa}
uv=$here/../.uv/bin/uv
if uv --version >/dev/null 2>&1; then uv=uv; fi
"$uv" venv --quiet --clear --no-project --python 3.12 "$folder"
"$uv" pip install --quiet --python "$folder/bin/python" --require-hashes --no-deps \
  --requirement "$here/requirements-mofa.txt"
"$folder/bin/python" -W ignore -c "from importlib.metadata import version; import mofapy2; print('MOFA', version('mofapy2'))"
