#!/usr/bin/env bash
# Train on a Slurm cluster: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of tools/train.py]
# Environment: GPUS (in all, 4), GPUS_PER_NODE (GPUS, at most 8), CPUS_PER_TASK (4), PORT (29500), SRUN_ARGS (more options
# of srun). GPUS_PER_NODE=0 runs GPUS processes on CPUs.
set -euo pipefail
if [ $# -lt 3 ] || [[ "$1" == -* ]]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG [options of tools/train.py]" >&2
    exit 2
fi
PARTITION=$1 JOB_NAME=$2 ARGUMENTS=("${@:3:1}")
shift 3
GPUS=${GPUS:-4}
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
PER_NODE=(--gres="gpu:$GPUS_PER_NODE" --ntasks-per-node="$GPUS_PER_NODE")
if [ "$GPUS_PER_NODE" = 0 ]; then PER_NODE=(); fi
export MASTER_PORT=${PORT:-29500}
# SRUN_ARGS is a list of words on purpose.
# shellcheck disable=SC2086
exec srun --partition="$PARTITION" --job-name="$JOB_NAME" --ntasks="$GPUS" ${PER_NODE[@]+"${PER_NODE[@]}"} \
    --cpus-per-task="${CPUS_PER_TASK:-4}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "${ARGUMENTS[@]}" --launcher slurm "$@"
