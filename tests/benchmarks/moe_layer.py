"""Tokens a second through one mixture-of-experts layer, forward and backward, against DeepSpeed's and Megatron's own.

python -m tests.benchmarks.moe_layer [--experts 8 64] [--fresh-pages] [--out moe_layer.json]

Ranks talk over gloo on this machine, one thread each. All layers hold the same weights, see the same tokens and route
them alike (top-2, gates normalised over the chosen two, nobody dropped); their outputs and gradients are compared
first. Then they take turns within each round, in random order; a turn begins and ends at a barrier, and the slowest
rank counts. Beside it stands the CPU time of all ranks, which hardly depends on who else uses the machine but leaves
waiting out. All ranks keep memory that is freed, as the allocator of a GPU does: else a tensor above 32 MB, such as the
gradient of a stack of experts, gets pages from the system each time; --fresh-pages leaves malloc as it is.
Megatron-Core's all-gather dispatcher runs with its own sequential experts; it asks CUDA for a device, which is answered
with the CPU here.
"""

import argparse
import ctypes
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tests.ranks import run_ranks

OURS, PEERS = ("copies", "home"), ("deepspeed", "megatron all-gather")
TOP_K = 2
Layer = Callable[[Tensor], Tensor]
Turns = dict[str, list[tuple[float, float]]]
"""Wall and CPU seconds of each turn, by layer."""


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--experts", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of a rank")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--fresh-pages", action="store_true", help="leave malloc as it is")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the figures go, as JSON")
    given = parser.parse_args()
    cases = [(experts, hidden) for experts in given.experts for hidden in given.hidden]
    of_ranks = run_ranks(measure, given.ranks, cases, given.tokens, given.rounds, given.fresh_pages)
    figures = [
        figure(experts, hidden, given.tokens * given.ranks, turns)
        for (experts, hidden), *turns in zip(cases, *of_ranks, strict=True)
    ]
    for shown in figures:
        print_figure(shown)
    print(f"load average {os.getloadavg()[0]:.2f}")
    if given.out:
        given.out.write_text(json.dumps({"cases": figures, "load_average": os.getloadavg()[0]}, indent=1) + "\n")


def figure(experts: int, hidden: int, tokens: int, of_ranks: Sequence[Turns]) -> dict[str, Any]:
    """What one case shows.

    Args:
        experts: experts of the layer.
        hidden: model width.
        tokens: tokens of all ranks.
        of_ranks: every rank's turns.

    Returns:
        Tokens a second, and ratios to the faster peer: of the medians, the median over rounds, and of the median CPU
        times.
    """
    wall_s = {name: np.max([turns[name] for turns in of_ranks], axis=0)[:, 0].tolist() for name in of_ranks[0]}
    cpu_s = {name: np.sum([turns[name] for turns in of_ranks], axis=0)[:, 1].tolist() for name in of_ranks[0]}
    medians = {name: median(rounds) for name, rounds in wall_s.items()}
    faster = min(PEERS, key=medians.__getitem__)
    return {
        "experts": experts,
        "hidden": hidden,
        "tokens": tokens,
        "tokens_per_s": {name: round(tokens / value) for name, value in medians.items()},
        "faster_peer": faster,
        "ratio": {name: medians[faster] / medians[name] for name in OURS},
        "ratio_by_round": {
            name: median(peer / own for own, peer in zip(wall_s[name], wall_s[faster], strict=True)) for name in OURS
        },
        "ratio_of_cpu": {name: min(median(cpu_s[peer]) for peer in PEERS) / median(cpu_s[name]) for name in OURS},
        "wall_s": wall_s,
        "cpu_s": cpu_s,
    }


def print_figure(shown: Mapping[str, Any]) -> None:
    """Prints one case."""
    speeds = ", ".join(f"{name} {speed:,}" for name, speed in shown["tokens_per_s"].items())
    print(f"{shown['experts']} experts, hidden {shown['hidden']}: tokens/s {speeds}")
    for name in OURS:
        ratio, by_round, cpu = (shown[key][name] for key in ("ratio", "ratio_by_round", "ratio_of_cpu"))
        faster = shown["faster_peer"]
        print(f"    {name} / {faster}: {ratio:.3f} (median over rounds {by_round:.3f}, by CPU time {cpu:.3f})")


def measure(
    rank: int, world_size: int, cases: Sequence[tuple[int, int]], tokens: int, rounds: int, fresh_pages: bool
) -> list[Turns]:
    """Times every case on one rank.

    Args:
        rank: this rank.
        world_size: all ranks; they share the experts.
        cases: experts and model width.
        tokens: tokens of a rank.
        rounds: turns of each layer.
        fresh_pages: whether freed memory may go back to the system.

    Returns:
        For each case, each layer's turns.
    """
    import deepspeed
    from megatron.core import parallel_state

    if not fresh_pages:
        keep_freed_memory()
    torch.cuda.current_device = lambda: torch.device("cpu")  # pyright: ignore[reportAttributeAccessIssue]
    deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)
    parallel_state.initialize_model_parallel(expert_model_parallel_size=world_size)
    return [time_case(rank, world_size, *case, tokens, rounds) for case in cases]


def keep_freed_memory() -> None:
    """Tells the C library to map no memory of its own for large tensors and to give none back."""
    trim_threshold, mmap_max = -1, -4  # of malloc.h
    library = ctypes.CDLL(None)
    library.mallopt(mmap_max, 0)
    library.mallopt(trim_threshold, 2**31 - 1)


def time_case(rank: int, world_size: int, experts: int, hidden: int, tokens: int, rounds: int) -> Turns:
    """Compares the layers' results and times them."""
    modules, layers = build_layers(world_size, experts, hidden)
    generator = torch.Generator().manual_seed(rank)
    tokens_SBD = torch.randn(tokens, 1, hidden, generator=generator).requires_grad_()
    gradient_SBD = torch.randn(tokens, 1, hidden, generator=generator)

    def turn(name: str) -> tuple[tuple[float, float], Tensor]:
        dist.barrier()
        began_s, cpu_began_s = time.perf_counter(), time.process_time()
        output = layers[name](tokens_SBD)
        output.backward(gradient_SBD)
        cpu_s = time.process_time() - cpu_began_s
        dist.barrier()
        wall_s = time.perf_counter() - began_s
        modules[name].zero_grad(set_to_none=True)
        gradient, tokens_SBD.grad = tokens_SBD.grad, None
        assert gradient is not None
        return (wall_s, cpu_s), torch.stack([output.detach(), gradient])

    expected = turn("megatron all-gather")[1]
    for name in layers:
        torch.testing.assert_close(
            turn(name)[1], expected, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: name + text
        )
    turns: Turns = {name: [] for name in layers}
    order = Random(experts)
    for _ in range(rounds):
        for name in order.sample(list(layers), len(layers)):
            turns[name].append(turn(name)[0])
    return turns


def build_layers(world_size: int, experts: int, hidden: int) -> tuple[dict[str, nn.Module], dict[str, Layer]]:
    """The same layer in every implementation.

    Args:
        world_size: ranks that share the experts.
        experts: number of experts.
        hidden: model width; an expert's inner layer is four times as wide.

    Returns:
        Modules and, by the same names, functions from tokens [S, 1, D] to outputs.
    """
    from deepspeed.moe.layer import MoE
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
    from megatron.core.transformer.mlp import MLPSubmodules
    from megatron.core.transformer.moe.experts import SequentialMLP
    from megatron.core.transformer.moe.moe_utils import get_default_pg_collection
    from megatron.core.transformer.moe.token_dispatcher import MoEAllGatherTokenDispatcher

    from moe.config import MoEConfig, TopKRouterConfig
    from moe.layer import PlacedMoELayer, transformer_config

    def placed(dispatch: Any) -> PlacedMoELayer:
        config = MoEConfig(
            num_experts=experts,
            top_k=TOP_K,
            expert_hidden=4 * hidden,
            dispatch=dispatch,
            router=TopKRouterConfig(normalise_over="selected", aux_loss=0.0),
        )
        megatron = transformer_config(
            config, hidden=hidden, num_layers=1, num_heads=1, expert_parallel=world_size, dtype=torch.float32
        )
        return PlacedMoELayer(config, megatron, layer=0, seed=1, slot_to_expert=np.arange(experts))

    modules: dict[str, nn.Module] = {name: placed(name) for name in OURS}
    gathering = placed("home")
    gathering.token_dispatcher = MoEAllGatherTokenDispatcher(
        gathering.num_local_experts, gathering.local_expert_indices, gathering.config, get_default_pg_collection()
    )
    products = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
    sequential: Any = SequentialMLP(
        gathering.num_local_experts, gathering.config, products, pg_collection=get_default_pg_collection()
    )
    stacks = gathering.expert_stacks()
    with torch.no_grad():
        for row, expert in enumerate(sequential.local_experts):
            for name, weight in expert.named_parameters():
                weight.copy_(stacks[name][row])
    gathering.experts = sequential
    modules["megatron all-gather"] = gathering

    expert = nn.Sequential(
        nn.Linear(hidden, 4 * hidden, bias=False), nn.GELU(), nn.Linear(4 * hidden, hidden, bias=False)
    )
    deep: Any = MoE(
        hidden, expert, experts, ep_size=world_size, k=TOP_K, drop_tokens=False, top2_2nd_expert_sampling=False
    )
    deep.set_deepspeed_parallelism()
    with torch.no_grad():
        deep.deepspeed_moe.gate.wg.weight.copy_(gathering.router.weight)
        for own, theirs in zip(sequential.local_experts, deep.deepspeed_moe.experts.deepspeed_experts, strict=True):
            theirs[0].weight.copy_(own.linear_fc1.weight)
            theirs[2].weight.copy_(own.linear_fc2.weight)
    modules["deepspeed"] = deep
    layers: dict[str, Layer] = {name: module for name, module in modules.items() if name != "deepspeed"}
    layers["deepspeed"] = lambda tokens_SBD: deep(tokens_SBD)[0]
    return modules, layers


if __name__ == "__main__":
    main()
