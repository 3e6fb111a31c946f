#!/usr/bin/env bash
# scBIOT in an environment of its own (its pins exclude ours): benchmarks/scbiot_env.sh [folder]
exec "$(dirname "${BASH_SOURCE[0]}")/_peer_env.sh" scbiot "import scbiot.ot; print('scBIOT', scbiot.__version__)" "$@"
