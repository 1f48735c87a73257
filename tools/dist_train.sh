#!/usr/bin/env bash
# Train on the GPUs of one machine, or without GPUs in as many processes on the CPU:
#   tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# On several machines set NNODES, NODE_RANK (0 ... NNODES-1), MASTER_ADDR (of the first) and PORT on each.
set -euo pipefail
if [ $# -lt 2 ] || [[ "$1" == -* ]] || ! [[ "$2" =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: $0 CONFIG GPUS [options of tools/train.py]" >&2
    exit 2
fi
ARGUMENTS=("${@:1:1}") GPUS=$2
shift 2
if [ -z "${NNODES:-}${PORT:-}" ]; then
    PLACE=(--standalone)  # one machine, any free port
else
    PLACE=(--nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}")
fi
exec "${PYTHON:-python}" -m torch.distributed.run "${PLACE[@]}" --nproc_per_node="$GPUS" \
    "$(dirname "$0")/train.py" "${ARGUMENTS[@]}" --launcher pytorch "$@"
