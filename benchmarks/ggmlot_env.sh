#!/usr/bin/env bash
# ggml-ot in an environment of its own (its pins exclude ours): benchmarks/ggmlot_env.sh [folder]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-$here/../.venv-ggmlot}
uv=$here/../.uv/bin/uv
if uv --version >/dev/null 2>&1; then uv=uv; fi
"$uv" venv --quiet --clear --no-project --python 3.12 "$folder"
"$uv" pip install --quiet --python "$folder/bin/python" --require-hashes --no-deps \
  --requirement "$here/requirements-ggmlot.txt"
"$folder/bin/python" -W ignore -c "import ggml_ot; from importlib.metadata import version; print('ggml-ot', version('ggml-ot'))"
