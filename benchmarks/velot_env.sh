#!/usr/bin/env bash
# VelOT, scVelo and CellRank in an environment of their own: benchmarks/velot_env.sh [folder]
exec "$(dirname "${BASH_SOURCE[0]}")/_peer_env.sh" velot "import velot, scvelo, cellrank; print('VelOT', velot.__version__)" "$@"
