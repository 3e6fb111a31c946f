#!/usr/bin/env bash
# Install a peer into an environment of its own, since its pins exclude ours: benchmarks/peers/make_environment.sh NAME [folder]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here/../..
case ${1:?name one of: ggmlot glue mofa scbiot velot} in
  ggmlot) modules="ggml_ot" package=ggml-ot ;;
  glue) modules="scglue" package=scglue ;;
  mofa) modules="mofapy2" package=mofapy2 ;;
  scbiot) modules="scbiot.ot" package=scbiot ;;
  velot) modules="velot, scvelo, cellrank" package=velot ;;
  *) echo "no peer is called $1" >&2; exit 2 ;;
esac
folder=${2:-$root/.venv-$1}
uv=$root/.uv/bin/uv
if uv --version >/dev/null 2>&1; then uv=uv; fi
"$uv" venv --quiet --clear --no-project --python 3.12 "$folder"
"$uv" pip install --quiet --python "$folder/bin/python" --require-hashes --no-deps \
  --requirement "$here/requirements-$1.txt"
# the import shows that the installed versions work together
"$folder/bin/python" -W ignore -c "import $modules; from importlib.metadata import version; print('$package', version('$package'))"
