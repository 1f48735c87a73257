#!/usr/bin/env bash
# Evaluate on the GPUs of one machine, or without GPUs in as many processes on the CPU:
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
# On several machines set NNODES, NODE_RANK (0 ... NNODES-1), MASTER_ADDR (of the first) and PORT on each.
set -euo pipefail
. "$(dirname "$0")/_launch.sh"
if [ $# -lt 3 ] || [[ "$1" == -* ]] || ! [[ "$3" =~ ^[1-9][0-9]*$ ]]; then
    usage "CONFIG CHECKPOINT GPUS [options of tools/test.py]"
fi
dist_run test.py "$3" "$1" "$2" --launcher pytorch "${@:4}"
