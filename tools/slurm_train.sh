#!/usr/bin/env bash
# Train on a Slurm cluster: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of tools/train.py]
# PARTITION '' is the cluster's default.
# Environment: GPUS (in all, 4), GPUS_PER_NODE (GPUS, at most 8), CPUS_PER_TASK (4), PORT (20000 to 29999), SRUN_ARGS (more options
# of srun). GPUS_PER_NODE=0 runs GPUS processes on CPUs.
set -euo pipefail
. "$(dirname "$0")/_launch.sh"
if [ $# -lt 3 ] || [[ "$1" == -* ]]; then
    usage "PARTITION JOB_NAME CONFIG [options of tools/train.py]"
fi
slurm_run train.py "$1" "$2" "${@:3:1}" --launcher slurm "${@:4}"
