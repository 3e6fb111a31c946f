#!/usr/bin/env bash
# scGLUE in an environment of its own: benchmarks/glue_env.sh [folder]
exec "$(dirname "${BASH_SOURCE[0]}")/_peer_env.sh" glue "from importlib.metadata import version; import scglue; print('scGLUE', version('scglue'))" "$@"
