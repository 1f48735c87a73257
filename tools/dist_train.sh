#!/usr/bin/env bash
# Train on the GPUs of one machine, or without GPUs in as many processes on the CPU:
#   tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# On several machines set NNODES, NODE_RANK (0 ... NNODES-1), MASTER_ADDR (of the first) and PORT on each.
set -euo pipefail
. "$(dirname "$0")/_launch.sh"
if [ $# -lt 2 ] || [[ "$1" == -* ]] || ! [[ "$2" =~ ^[1-9][0-9]*$ ]]; then
    usage "CONFIG GPUS [options of tools/train.py]"
fi
dist_run train.py "$2" "$1" --launcher pytorch "${@:3}"
