"""The step of aliyun/SimAI, issue 293, on netsim: 64 GPUs train Mixtral 8x7B; ns-3 takes too long to wait for.

``python -m tests.benchmarks.simai_mixture [KEY=VALUE ...]`` writes the workload, simulates it on eight hosts of eight
H100 with packets of 9,000 B, as SimAI has them, and prints what it moves and how long that takes; keys change the
scenario. The file of the issue cannot be had. Layers are those that AICB's formulae give for the command in the issue
(tensor 8, expert 4, 32 layers of 4,096, two of eight experts, sequences of 4,096, not cut by its context parallelism of
4); weight gradients and weights, at its end, have the sizes and groups that the issue names. Computing takes no time.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from netsim.simulation.compare import run_one
from netsim.simulation.engines import packet_hops
from netsim.simulation.prepare import prepare
from netsim.simulation.scenario import read_scenario

TENSOR, EXPERT, RANKS = 8, 4, 64
LAYERS, HIDDEN, SEQUENCE, EXPERTS, TOP_K, VOCABULARY = 32, 4096, 4096, 8, 2, 32_000
ACTIVATIONS = 2 * SEQUENCE * HIDDEN
"""Bytes of a micro batch of one sequence in bfloat16, on all ranks of a tensor group together."""
NOTHING = "NONE", 0
Move = tuple[str, int]

SCENARIO = {
    "format": "flowfabric.scenario/1",
    "topology": {"kind": "preset", "name": "dgx_h100_32", "hosts_per_leaf": 8, "parallel": 2},
    "packet": {"payload": "9000B"},
    "transports": ["ecmp"],
    "seeds": [0],
}


def layers() -> Iterator[tuple[str, Move, Move, Move]]:
    """Name of each line, with its collectives forwards, of the input gradient and of the weight gradient."""
    yield "grad_gather", NOTHING, NOTHING, ("ALLGATHER", 540_000_000)
    yield "grad_param_comm", NOTHING, NOTHING, ("REDUCESCATTER", 1_080_000_000)
    yield "embedding_grads", NOTHING, ("ALLREDUCE", ACTIVATIONS), NOTHING
    yield "moe_grad_norm1", NOTHING, NOTHING, ("ALLGATHER_DP_EP", 2_150_000_000)
    yield "moe_grad_norm2", NOTHING, NOTHING, ("REDUCESCATTER", 4_300_000_000)
    yield "embedding_layer", ("ALLREDUCE", ACTIVATIONS), NOTHING, NOTHING
    exchange = "ALLTOALL_EP", ACTIVATIONS * TOP_K // TENSOR
    gathered, scattered = ("ALLGATHER", ACTIVATIONS * TOP_K), ("REDUCESCATTER", ACTIVATIONS * TOP_K)
    for _ in range(LAYERS):
        yield "attention_column", ("ALLGATHER", ACTIVATIONS), NOTHING, NOTHING
        yield "attention_row", ("REDUCESCATTER", ACTIVATIONS), ("ALLGATHER", ACTIVATIONS), NOTHING
        yield "mlp_moelayer", ("ALLGATHER", 2 * EXPERT * EXPERTS * TENSOR), NOTHING, NOTHING
        yield "mlp_moelayer", exchange, exchange, NOTHING
        yield "mlp_moelayer", gathered, scattered, NOTHING
        yield "mlp_moelayer", scattered, gathered, NOTHING
        yield "mlp_moelayer", exchange, exchange, NOTHING
    yield "final_column", ("ALLGATHER", ACTIVATIONS), NOTHING, NOTHING
    yield "embedding_norm", ("ALLREDUCE", 2 * VOCABULARY * HIDDEN), NOTHING, NOTHING
    for number in range(3):
        yield f"cross_entropy{number + 1}", ("ALLREDUCE", 4 * SEQUENCE), NOTHING, NOTHING
    for number in range(4):
        yield f"optimizer{number + 1}", ("ALLREDUCE", 4), NOTHING, NOTHING


def text() -> str:
    """The workload, as AICB writes it."""
    lines = [
        "\t".join(map(str, (name, -1, *(cell for move in moves for cell in (0, *move)), 100)))
        for name, *moves in layers()
    ]
    degrees = f"model_parallel_NPU_group: {TENSOR} ep: {EXPERT} pp: 1 vpp: {LAYERS} ga: 1 all_gpus: {RANKS}"
    header = f"HYBRID_TRANSFORMER_FWD_IN_BCKWD {degrees} checkpoints: 0 checkpoint_initiates: 0 pp_comm: 0"
    return "\n".join((header, str(len(lines)), *lines, ""))


def main() -> None:
    """Simulates and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes of the scenario")
    parser.add_argument("--write", type=Path, metavar="FILE", help="only write the workload")
    given = parser.parse_args()
    if given.write:
        given.write.write_text(text(), encoding="utf-8")
        sys.exit()
    with TemporaryDirectory() as folder:
        workload = Path(folder) / "mixtral_64.txt"
        workload.write_text(text(), encoding="utf-8")
        content = SCENARIO | {"workload": {"kind": "aicb", "path": str(workload)}}
        scenario = read_scenario(content, given.overrides)
        began_s = time.process_time()
        prepared = prepare(scenario, "scenario")
        laid_out_s = time.process_time() - began_s
    moved = prepared.scene.tasks.columns().bytes
    hops = packet_hops(prepared.scene)
    print(
        f"{len(prepared.laid_out.spans):,} collectives, {(moved > 0).sum():,} messages, {moved.sum() / 1e9:,.0f} GB, ",
        end="",
    )
    print(f"{hops:,} packet-hops; read and laid out in {laid_out_s:.1f} s of CPU")
    for transport in scenario.transports:
        began_s = time.process_time()
        run = run_one(prepared, transport, scenario.seeds[0])
        spent_s = time.process_time() - began_s
        print(f"{transport.name} on {run.engine}: a step takes {run.completion_ps / 1e9:.1f} ms, ", end="")
        print(f"simulated in {spent_s:.1f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
