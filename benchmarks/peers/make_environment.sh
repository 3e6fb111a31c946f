#!/usr/bin/env bash
# Install a peer into an environment of its own, since its pins exclude ours: benchmarks/peers/make_environment.sh NAME [folder]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here/../..
case ${1:?name one of: concord ggmlot glue harmony1 mofa scanorama scbiot velot} in
  concord) modules="concord" package=concord-sc ;;
  ggmlot) modules="ggml_ot" package=ggml-ot ;;
  glue) modules="scglue" package=scglue ;;
  harmony1) modules="harmonypy" package=harmonypy ;;
  mofa) modules="mofapy2" package=mofapy2 ;;
  scanorama) modules="scanorama" package=scanorama ;;
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
