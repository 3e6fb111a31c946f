#!/usr/bin/env bash
# ggml-ot in an environment of its own (its pins exclude ours): benchmarks/ggmlot_env.sh [folder]
exec "$(dirname "${BASH_SOURCE[0]}")/_peer_env.sh" ggmlot "import ggml_ot; from importlib.metadata import version; print('ggml-ot', version('ggml-ot'))" "$@"
