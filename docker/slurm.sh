#!/usr/bin/env bash
# A training run as a SLURM job, one launch.sh a node:
#   sbatch --nodes 4 docker/slurm.sh CONFIG [key=value ...]
# from the root of the repository, which all nodes must share. Options of sbatch replace those below. Three minutes
# before the time is up, and when the job is preempted, the ranks save; the job then queues again and continues.
# CONTAINER_IMAGE=IMAGE runs the nodes in an image by pyxis, with the packages of the image and the code of this folder.
#SBATCH --job-name=flowfabric
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=flowfabric_%j.log
set -uo pipefail

cd "$SLURM_SUBMIT_DIR" || exit 1
# Several jobs may share a node: the port is the job's own.
export NODES=$SLURM_JOB_NUM_NODES RUN_ID=$SLURM_JOB_ID MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}
export MASTER_ADDR
container=()
if [[ -n ${CONTAINER_IMAGE:-} ]]; then
    PYTHON=${PYTHON:-python}
    container=(--container-image="$CONTAINER_IMAGE" --container-mounts="$PWD:$PWD" --container-workdir="$PWD")
    container+=(--no-container-entrypoint)
fi
export PYTHON=${PYTHON:-$PWD/.venv/bin/python} RESTART=${RESTART:-failed} GRACE=${GRACE:-150}

step="" stops=0
trap 'stops=$((stops + 1)); [[ -z $step ]] || kill -TERM "$step"' TERM

# srun does not take over the cores of the job's tasks; without them a task may be bound to one.
# shellcheck disable=SC2016  # the number of the node is known on the node alone
srun --kill-on-bad-exit=0 --cpus-per-task="${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}" "${container[@]}" \
    bash -c 'NODE_RANK=$SLURM_NODEID exec docker/launch.sh "$@"' launch "$@" &
step=$!
while :; do
    before=$stops
    wait "$step" # ends early when a signal comes in
    code=$?
    ((code == 127)) || status=$code
    ((before == stops)) && break
done

if ((status == 75 || (status == 143 && stops > 0))); then # 143: before there was anything to save
    echo "slurm.sh: stopped; queues again" >&2
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
