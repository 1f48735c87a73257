#!/usr/bin/env bash
# Evaluate on the GPUs of one machine, or without GPUs in as many processes on the CPU:
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
# On several machines set NNODES, NODE_RANK (0 ... NNODES-1), MASTER_ADDR (of the first) and PORT on each.
set -euo pipefail
if [ $# -lt 3 ] || [[ "$1" == -* ]] || ! [[ "$3" =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [options of tools/test.py]" >&2
    exit 2
fi
ARGUMENTS=("${@:1:2}") GPUS=$3
shift 3
if [ -z "${NNODES:-}${PORT:-}" ]; then
    PLACE=(--standalone)  # one machine, any free port
else
    PLACE=(--nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}")
fi
exec "${PYTHON:-python}" -m torch.distributed.run "${PLACE[@]}" --nproc_per_node="$GPUS" \
    "$(dirname "$0")/test.py" "${ARGUMENTS[@]}" --launcher pytorch "$@"
