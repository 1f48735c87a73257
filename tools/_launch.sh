# Sourced by the dist_*.sh and slurm_*.sh beside it: starts SCRIPT, one of the programs here, in several processes.

# usage WHAT: say how to call the script, and end it.
usage() {
    echo "usage: $0 $1" >&2
    exit 2
}

# dist_run SCRIPT GPUS ARGUMENTS...: on this machine, or as one machine of several.
dist_run() {
    local script=$1 gpus=$2 place
    shift 2
    if [ -z "${NNODES:-}${PORT:-}" ]; then
        place=(--standalone)  # one machine, any free port
    else
        place=(--nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}"
               --master_port="${PORT:-29500}")
    fi
    exec "${PYTHON:-python}" -m mmparax.utils.torchrun "${place[@]}" --nproc_per_node="$gpus" \
        "$(dirname "$0")/$script" "$@"
}

# slurm_run SCRIPT PARTITION JOB_NAME ARGUMENTS...: as a job of a Slurm cluster; '' is its default partition.
slurm_run() {
    local script=$1 partition=$2 job_name=$3 gpus=${GPUS:-4} per_node=()
    shift 3
    local gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
    if [ "$gpus_per_node" != 0 ]; then
        per_node=(--gres="gpu:$gpus_per_node" --ntasks-per-node="$gpus_per_node")
    fi
    export MASTER_PORT=${PORT:-$((20000 + $$ % 10000))}  # two jobs may share a machine
    # SRUN_ARGS is a list of words on purpose.
    # shellcheck disable=SC2086
    exec srun ${partition:+"--partition=$partition"} --job-name="$job_name" --ntasks="$gpus" ${per_node[@]+"${per_node[@]}"} \
        --cpus-per-task="${CPUS_PER_TASK:-4}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
        "${PYTHON:-python}" -u "$(dirname "$0")/$script" "$@"
}
