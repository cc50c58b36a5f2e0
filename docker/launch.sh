#!/usr/bin/env bash
# Starts this node's part of a training run and stays with it until the end; --help says how.
set -uo pipefail

readonly STOPPED=75 # EX_TEMPFAIL: stopped, has saved, wants to be started again
readonly WRONG_INPUT=2
readonly INTERRUPTED=130 TERMINATED=143 # stopped, and nothing new was saved

usage() {
    cat <<'TEXT'
usage: docker/launch.sh CONFIG [key=value ...] [OPTION VALUE ...]; options may stand anywhere

Starts the processes (ranks) of a training run that belong to this machine (node) and stays with them until the end.
Type the same line again after whatever ended the run: it resumes from the newest complete checkpoint in run.dir.

one machine, two ranks:
  docker/launch.sh --ranks-per-node 2 configs/runs/digits_moe.yaml run.dir=runs/a
two machines, eight ranks each; the same line on both but for the number of the node:
  docker/launch.sh --nodes 2 --node-rank 0 --master 10.0.0.1 --ranks-per-node 8 CONFIG run.dir=DIR    on 10.0.0.1
  docker/launch.sh --nodes 2 --node-rank 1 --master 10.0.0.1 --ranks-per-node 8 CONFIG run.dir=DIR    on the other
a rehearsal of two machines on one, each line in a terminal of its own; nothing listens to the outside:
  docker/launch.sh --nodes 2 --node-rank 0 --master 127.0.0.1 configs/runs/digits_moe.yaml run.dir=runs/b
  docker/launch.sh --nodes 2 --node-rank 1 --master 127.0.0.1 configs/runs/digits_moe.yaml run.dir=runs/b
All nodes need the same configuration, code and packages, and run.dir must be one folder that all of them see.

Each option can be given by the environment variable behind it instead.
  --nodes N           NODES            nodes of the run (default: 1)
  --node-rank R       NODE_RANK        number of this node, 0 to N-1, each once (default: 0)
  --master ADDRESS    MASTER_ADDR      address of node 0, where the others reach it (default: 127.0.0.1, for one node only)
  --master-port PORT  MASTER_PORT      port where the nodes meet on node 0 (default: 29400; any free one for one node)
  --local-addr ADDR   LOCAL_ADDR       where the other nodes reach this one (default: the address that faces the master)
  --ranks-per-node R  RANKS_PER_NODE   ranks on each node, the same on all (default: GPUs of this one, or 1)
  --run-id NAME       RUN_ID           name of the run, the same on all nodes (default: flowfabric)
  --max-restarts N    MAX_RESTARTS     times that torchrun starts failed ranks again (default: 3)
  --grace SECONDS     GRACE            what the ranks have to save and end when stopped (default: 120)
  --restart WHEN      RESTART          never: a scheduler starts the run again (default)
                                       failed: this script starts torchrun again where it failed or was killed
                                       always: also where it was stopped by SIGTERM; Ctrl-C ends it
  --restarts N        RESTARTS         times that it does so at most (default: 10)
  --help

PYTHON names the interpreter (default: python). GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME, where not set, become the
interface of the local address, and OMP_NUM_THREADS the cores per rank.

Nodes may come in any order; one that waits says so every 30 seconds, with the numbers of the absent, for ten minutes.

To stop: Ctrl-C, or SIGTERM, SIGUSR2 or SIGHUP to this script on one node. The ranks of all nodes finish the step, save,
and end. A second Ctrl-C ends this node at once; steps since the last checkpoint are then lost.
exit codes: 0 done, 1 failed, 2 wrong input (never started again), 75 stopped and saved: start it again to resume,
130 or 143 stopped by Ctrl-C or SIGTERM with nothing new to save, 128 + N killed by signal N.
TEXT
}

refuse() {
    echo "launch.sh: $1" >&2
    exit "$WRONG_INPUT"
}

whole_number() { # NAME VALUE LEAST
    if ! [[ $2 =~ ^(0|[1-9][0-9]{0,5})$ ]] || (($2 < $3)); then
        refuse "$1: '$2' is not a whole number of at least $3; correct it"
    fi
}

NODES=${NODES:-1} NODE_RANK=${NODE_RANK:-0} MASTER_ADDR=${MASTER_ADDR:-} MASTER_PORT=${MASTER_PORT:-}
LOCAL_ADDR=${LOCAL_ADDR:-} RANKS_PER_NODE=${RANKS_PER_NODE:-} RUN_ID=${RUN_ID:-flowfabric}
MAX_RESTARTS=${MAX_RESTARTS:-3} GRACE=${GRACE:-120} RESTART=${RESTART:-never} RESTARTS=${RESTARTS:-10}
PYTHON=${PYTHON:-python}

words=() # for the trainer: CONFIG, the settings behind it, and the trainer's own options
while (($# > 0)); do
    name=${1%%=*}
    case $name in
        --help | -h) usage && exit 0 ;;
        --nodes | --node-rank | --master-port | --local-addr | --ranks-per-node | --run-id | --max-restarts | --grace | \
            --restart | --restarts) variable=${name#--} variable=${variable//-/_} variable=${variable^^} ;;
        --master) variable=MASTER_ADDR ;;
        -*) ((${#words[@]} > 0)) || refuse "unknown option $name; see docker/launch.sh --help" ;;&
        *) words+=("$1") && shift && continue ;;
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
set -- "${words[@]}"
(($# > 0)) || refuse "CONFIG is missing; see docker/launch.sh --help"

whole_number --nodes "$NODES" 1
whole_number --node-rank "$NODE_RANK" 0
((NODE_RANK < NODES)) || refuse "--node-rank: $NODE_RANK is too large, the $NODES nodes are numbered 0 to $((NODES - 1)); correct it"
if [[ -z $MASTER_ADDR ]]; then
    ((NODES == 1)) || refuse "--master: missing; give the address of node 0 (127.0.0.1: all $NODES nodes on this machine)"
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
[[ $RESTART =~ ^(never|failed|always)$ ]] || refuse "--restart: '$RESTART' is not one of never, failed and always; use one of them"
command -v "$PYTHON" >/dev/null || refuse "PYTHON: '$PYTHON' is not a program; set it to the interpreter of the environment"

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
nodes_here=1
if ((NODES > 1)) && [[ $LOCAL_ADDR == 127.* ]]; then
    [[ $MASTER_ADDR == 127.* || $MASTER_ADDR == localhost ]] ||
        refuse "--master: $MASTER_ADDR is $LOCAL_ADDR here, where no other node reaches it; give an address between nodes"
    echo "launch.sh: node $NODE_RANK: a rehearsal, for $MASTER_ADDR is this machine: all $NODES nodes must be here" >&2
    nodes_here=$NODES
fi
if [[ -n $interface ]]; then
    export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$interface} NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-$interface}
fi
cores_per_rank=$(($(nproc) / (RANKS_PER_NODE * nodes_here)))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores_per_rank > 0 ? cores_per_rank : 1))}
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=$GRACE
# The agent's own store keeps the addresses of ranks that have died, and ranks started again would call them.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
temporary=$(mktemp -d) || exit 1
trap 'rm -rf "$temporary"' EXIT
export FLOWFABRIC_EXIT_STATUS=$temporary/exit_status # in which the ranks say how the run ended

child="" stops=0 interrupted=0
tell_to_stop() { # SIGNAL
    stops=$((stops + 1))
    [[ -z $child ]] || kill "-$1" "$child" 2>/dev/null
}
trap 'tell_to_stop TERM' TERM USR2 HUP
trap 'interrupted=1; tell_to_stop INT' INT

# Runs a command, hands signals on to it and waits until it has ended; its exit code is in $status.
attend() {
    local before=$stops code
    (trap - INT && exec "$@") & # bash would make it deaf to SIGINT
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
        failed) ((stops == 0 && status != STOPPED && status != INTERRUPTED && status != TERMINATED)) ;;
        always) ((interrupted == 0 && status != INTERRUPTED)) ;;
    esac
}

attend "$PYTHON" -m trainer check "$@" --world-size $((NODES * RANKS_PER_NODE)) >/dev/null
((status == 0 && stops == 0)) || exit $((status == 0 ? interrupted ? INTERRUPTED : TERMINATED : status))

for ((attempt = 0; ; attempt++)); do
    attend "$PYTHON" -m trainer.distributed.process.agent --nodes "$NODES" --node-rank "$NODE_RANK" \
        --master "$MASTER_ADDR" --master-port "$MASTER_PORT" --local-addr "$LOCAL_ADDR" \
        --ranks-per-node "$RANKS_PER_NODE" --run-id "$RUN_ID" --max-restarts "$MAX_RESTARTS" -- -m trainer train "$@"
    ((status != 0 && status != WRONG_INPUT && attempt < RESTARTS)) && starts_again || exit "$status"
    echo "launch.sh: node $NODE_RANK ended with $status; starts again ($((attempt + 1)) of $RESTARTS)" >&2
    sleep 1 &
    wait $!
    starts_again || exit "$status"
done
