#!/usr/bin/env bash
# Evaluate on a Slurm cluster: tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
# PARTITION '' is the cluster's default.
# Environment: GPUS (in all, 4), GPUS_PER_NODE (GPUS, at most 8), CPUS_PER_TASK (4), PORT (20000 to 29999), SRUN_ARGS (more options
# of srun). GPUS_PER_NODE=0 runs GPUS processes on CPUs.
set -euo pipefail
. "$(dirname "$0")/_launch.sh"
if [ $# -lt 4 ] || [[ "$1" == -* ]]; then
    usage "PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]"
fi
slurm_run test.py "$1" "$2" "${@:3:2}" --launcher slurm "${@:5}"
