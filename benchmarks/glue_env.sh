#!/usr/bin/env bash
# scGLUE in an environment of its own: benchmarks/glue_env.sh [folder]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-$here/../.venv-glue}
uv=$here/../.uv/bin/uv
if uv --version >/dev/null 2>&1; then uv=uv; fi
"$uv" venv --quiet --clear --no-project --python 3.12 "$folder"
"$uv" pip install --quiet --python "$folder/bin/python" --require-hashes --no-deps \
  --requirement "$here/requirements-glue.txt"
"$folder/bin/python" -W ignore -c "from importlib.metadata import version; import scglue; print('scGLUE', version('scglue'))"
