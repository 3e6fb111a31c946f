#!/usr/bin/env bash
# MOFA in an environment of its own: benchmarks/mofa_env.sh [folder]
exec "$(dirname "${BASH_SOURCE[0]}")/_peer_env.sh" mofa "from importlib.metadata import version; import mofapy2; print('MOFA', version('mofapy2'))" "$@"
