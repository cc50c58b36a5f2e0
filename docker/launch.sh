#!/usr/bin/env bash
# Starts this node's part of a training run and stays with it until the end; --help says how.
set -uo pipefail

readonly STOPPED=75 # EX_TEMPFAIL: told to stop, has saved, wants to be started again
readonly WRONG_INPUT=2

usage() {
    cat <<'TEXT'
usage: docker/launch.sh [OPTION VALUE ...] CONFIG [key=value ...]

Starts this node's ranks of a training run with torchrun, on one node or on many. The same line again, after
whatever ended the run, goes on from the newest complete checkpoint in run.dir.

example, one node with two ranks:
  docker/launch.sh --ranks-per-node 2 configs/runs/digits_moe.yaml run.dir=runs/a
example, two nodes with eight ranks each; the same line on both but for the node's number:
  docker/launch.sh --nodes 2 --node-rank 0 --master 10.0.0.1 --ranks-per-node 8 CONFIG run.dir=DIR
  docker/launch.sh --nodes 2 --node-rank 1 --master 10.0.0.1 --ranks-per-node 8 CONFIG run.dir=DIR
Configuration, code and run.dir must be the same files on all nodes.

Each option can be given by the environment variable behind it instead.
  --nodes N           NODES            nodes of the run (default: 1)
  --node-rank R       NODE_RANK        number of this node, 0 to N-1; node 0 is the master (default: 0)
  --master ADDRESS    MASTER_ADDR      where all nodes reach node 0 (default: 127.0.0.1, for one node only)
  --master-port PORT  MASTER_PORT      port of the rendezvous on node 0 (default: 29400; any free one for one node)
  --local-addr ADDR   LOCAL_ADDR       where the other nodes reach this one (default: the address that faces the master)
  --ranks-per-node R  RANKS_PER_NODE   processes on this node, the same on all (default: its GPUs, or 1)
  --run-id NAME       RUN_ID           name of the rendezvous, the same on all nodes (default: flowfabric)
  --max-restarts N    MAX_RESTARTS     times that torchrun starts failed ranks again (default: 3)
  --grace SECONDS     GRACE            what the ranks have to save and end when told to stop (default: 120)
  --restart WHEN      RESTART          never: a scheduler starts the run again (default)
                                       failed: this script starts torchrun again where it failed or was killed
                                       always: also where it was told to stop by SIGTERM; SIGINT ends it
  --restarts N        RESTARTS         times that it does so at most (default: 10)
  --help

PYTHON names the interpreter (default: python). GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME, where not set, become the
interface of the local address, and OMP_NUM_THREADS the cores per rank.

SIGTERM and SIGUSR2 are passed on to the ranks, which save and end.
exit codes: 0 done, 1 failed, 2 wrong input, 75 told to stop: start it again to go on; 128 + N: killed by signal N.
TEXT
}

refuse() {
    echo "launch.sh: $1" >&2
    exit "$WRONG_INPUT"
}

whole_number() { # NAME VALUE LEAST
    if ! [[ $2 =~ ^(0|[1-9][0-9]{0,5})$ ]] || (($2 < $3)); then
        refuse "$1: '$2' is no whole number from $3; correct it"
    fi
}

NODES=${NODES:-1} NODE_RANK=${NODE_RANK:-0} MASTER_ADDR=${MASTER_ADDR:-} MASTER_PORT=${MASTER_PORT:-}
LOCAL_ADDR=${LOCAL_ADDR:-} RANKS_PER_NODE=${RANKS_PER_NODE:-} RUN_ID=${RUN_ID:-flowfabric}
MAX_RESTARTS=${MAX_RESTARTS:-3} GRACE=${GRACE:-120} RESTART=${RESTART:-never} RESTARTS=${RESTARTS:-10}
PYTHON=${PYTHON:-python}

while [[ ${1:-} == -* ]]; do
    name=${1%%=*}
    case $name in
        --help | -h) usage && exit 0 ;;
        --nodes | --node-rank | --master-port | --local-addr | --ranks-per-node | --run-id | --max-restarts | --grace | \
            --restart | --restarts) variable=${name#--} variable=${variable//-/_} variable=${variable^^} ;;
        --master) variable=MASTER_ADDR ;;
        *) refuse "unknown option $name; see docker/launch.sh --help" ;;
    esac
    if [[ $1 == *=* ]]; then
        value=${1#*=}
    else
        (($# > 1)) || refuse "$name needs a value; see docker/launch.sh --help"
        value=$2 && shift
    fi
    printf -v "$variable" %s "$value"
    shift
done
(($# > 0)) || refuse "CONFIG is missing; see docker/launch.sh --help"

whole_number --nodes "$NODES" 1
whole_number --node-rank "$NODE_RANK" 0
((NODE_RANK < NODES)) || refuse "--node-rank: $NODE_RANK is no node of $NODES; number them from 0"
if [[ -z $MASTER_ADDR ]]; then
    ((NODES == 1)) || refuse "--master: $NODES nodes need one; give the address of node 0"
    MASTER_ADDR=127.0.0.1
fi
MASTER_PORT=${MASTER_PORT:-$((NODES == 1 ? 0 : 29400))}
whole_number --master-port "$MASTER_PORT" 0
if [[ -z $RANKS_PER_NODE ]]; then
    RANKS_PER_NODE=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU')
    ((RANKS_PER_NODE > 0)) || RANKS_PER_NODE=1
fi
whole_number --ranks-per-node "$RANKS_PER_NODE" 1
whole_number --max-restarts "$MAX_RESTARTS" 0
whole_number --grace "$GRACE" 1
whole_number --restarts "$RESTARTS" 0
[[ $RESTART =~ ^(never|failed|always)$ ]] || refuse "--restart: '$RESTART' is not known; use never, failed or always"
command -v "$PYTHON" >/dev/null || refuse "PYTHON: '$PYTHON' is no program; set it to the interpreter of the environment"

# Prints this node's address, by default the one that faces the master, and the interface that has it.
local_address() {
    "$PYTHON" - "$MASTER_ADDR" "$LOCAL_ADDR" <<'PROGRAM'
import fcntl, socket, struct, sys

SIOCGIFADDR = 0x8915
master, address = sys.argv[1:]
interface = ""
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    if not address:
        try:
            probe.connect((master, 9))  # sends nothing, but picks the source address
        except OSError as error:
            sys.exit(error.strerror)
        address = probe.getsockname()[0]
    for _, name in socket.if_nameindex():
        try:
            answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
        except OSError:
            continue
        if socket.inet_ntoa(answer[20:24]) == address:
            interface = name
    print(address, interface)
PROGRAM
}

wait_s=60 # names of nodes that are just starting may not be known yet
until found=$(local_address 2>&1); do
    ((NODES > 1 && wait_s-- > 0)) || refuse "--master: $MASTER_ADDR cannot be reached ($found); correct it"
    sleep 1
done
read -r address interface <<<"$found"
LOCAL_ADDR=$address
if ((NODES > 1)) && [[ $LOCAL_ADDR == 127.* ]]; then
    refuse "--master: $MASTER_ADDR is $LOCAL_ADDR here, where no other node reaches it; give an address between nodes"
fi
if [[ -n $interface ]]; then
    export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$interface} NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-$interface}
fi
cores_per_rank=$(($(nproc) / RANKS_PER_NODE))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores_per_rank > 0 ? cores_per_rank : 1))}
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=$GRACE
# The agent's own store keeps the addresses of ranks that have died, and ranks started again would call them.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
FLOWFABRIC_REFUSED=$(mktemp -u) && export FLOWFABRIC_REFUSED # made by a rank whose start would be refused again

child="" stops=0 interrupted=0
tell_to_stop() {
    stops=$((stops + 1))
    [[ -z $child ]] || kill -TERM "$child" 2>/dev/null
}
trap tell_to_stop TERM USR2
trap 'interrupted=1; tell_to_stop' INT

# Runs a command, hands signals on to it and waits until it has ended; its exit code is in $status.
attend() {
    local before=$stops code
    "$@" &
    child=$!
    ((before == stops)) || kill -TERM "$child" 2>/dev/null # came before there was a child to tell
    while :; do
        before=$stops
        wait "$child" # ends early when a signal comes in
        code=$?
        ((code == 127)) || status=$code
        ((before == stops)) && break
    done
    child=""
}

starts_again() {
    case $RESTART in
        never) false ;;
        failed) ((stops == 0)) ;;
        always) ((interrupted == 0)) ;;
    esac
}

attend "$PYTHON" -m trainer check "$@" --world-size $((NODES * RANKS_PER_NODE)) >/dev/null
((stops == 0)) || exit "$STOPPED"
((status == 0)) || exit "$status"

for ((attempt = 0; ; attempt++)); do
    told=$stops
    attend "$PYTHON" -m torch.distributed.run --nnodes "$NODES" --nproc-per-node "$RANKS_PER_NODE" \
        --rdzv-backend c10d --rdzv-id "$RUN_ID" --rdzv-endpoint "$MASTER_ADDR:$MASTER_PORT" \
        --rdzv-conf "is_host=$((NODE_RANK == 0))" --local-addr "$LOCAL_ADDR" --max-restarts "$MAX_RESTARTS" \
        -m trainer train "$@"
    [[ ! -e $FLOWFABRIC_REFUSED ]] || { rm -f "$FLOWFABRIC_REFUSED" && exit "$WRONG_INPUT"; }
    ((status != 0)) || exit 0
    ((stops == told)) || status=$STOPPED
    ((attempt < RESTARTS)) && starts_again || exit "$status"
    echo "launch.sh: torchrun ended with $status; starts again ($((attempt + 1)) of $RESTARTS)" >&2
    sleep 1 &
    wait $!
    starts_again || exit "$STOPPED"
done
