"""A rank that trains under several placements and dispatch modes in turn; see `tests.multinode.training_placed`.

All modes train the same network with the same engine on the same bytes; only the experts' places and the dispatch
differ.

Shape legend: T tokens, L MoE layers, K choices, E experts, G ranks.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from moe.placement.placement import Dispatch, Placement
from moe.placement.topology import Topology
from moe.routing_trace import RoutingTrace
from trainer.config.run import RunConfig

SEED = 7
BASELINE = "contiguous, copies"
OBJECTIVES: tuple[Dispatch, ...] = ("copies", "hierarchical")
MAX_LOAD = 1.15
"""Cap on the busiest rank when placing, in means of a layer."""


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        hidden: width of a token.
        expert_hidden: inner width of an expert.
        num_layers: blocks, all with experts; each follows the routers of one layer of the traces.
        top_k: experts of a token, the strongest of the traces'.
        sequences: windows of a micro batch on one rank.
        context: bytes of a window.
        accumulation: micro batches of a step.
        steps: optimiser steps of a mode in a round.
        rounds: rounds, the modes in turn.
        by_domain: node n reads the n-th trace; else every rank reads texts of all.
    """

    hidden: int = 128
    expert_hidden: int = 96
    num_layers: int = 4
    top_k: int = 2
    sequences: int = 16
    context: int = 128
    accumulation: int = 2
    steps: int = 1
    rounds: int = 5
    by_domain: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of a micro batch on one rank."""
        return self.sequences * self.context


@dataclass(frozen=True, eq=False)
class Half:
    """One half of the texts, dealt to the ranks: experts [T, L, K] of each token and its rank [T]."""

    ids: NDArray[np.integer]
    source: NDArray[np.integer]


def halves(case: Case, traces: Sequence[RoutingTrace], nodes: int, ranks_per_node: int) -> tuple[Half, Half]:
    """The texts of even and those of odd number.

    Each half is dealt to the ranks in turn: over all ranks, or with `by_domain` over those of the trace's node.
    """
    parts: tuple[list[Half], list[Half]] = ([], [])
    for domain, trace in enumerate(traces):
        assert trace.sequence is not None
        layers = np.linspace(0, trace.header.num_layers - 1, case.num_layers).round().astype(int)
        ids_TLK = trace.expert_ids[:, layers, : case.top_k]
        turn = trace.sequence // 2
        first, width = (
            (domain % nodes * ranks_per_node, ranks_per_node) if case.by_domain else (0, nodes * ranks_per_node)
        )
        for half in (0, 1):
            own = trace.sequence % 2 == half
            parts[half].append(Half(ids_TLK[own], first + turn[own] % width))
    even, odd = (
        Half(np.concatenate([part.ids for part in of_half]), np.concatenate([part.source for part in of_half]))
        for of_half in parts
    )
    return even, odd


def place(case: Case, half: Half, num_experts: int, topology: Topology, folder: Path) -> None:
    """Writes a placement for each mode, made from one half of the texts."""
    from moe.placement.counts import RoutingStatistics
    from moe.placement.solver.solve import solve
    from moe.routing_trace import RoutingHeader

    header = RoutingHeader(
        num_experts=num_experts,
        num_layers=case.num_layers,
        top_k=case.top_k,
        world_size=topology.num_ranks,
        model="played",
    )
    trace = RoutingTrace(np.ascontiguousarray(half.ids), half.source, header)
    statistics = RoutingStatistics.collect(trace, topology.num_ranks)
    for objective in OBJECTIVES:
        found = solve(statistics, topology, objective=objective, max_load=MAX_LOAD)
        found.write(folder / f"{objective}.json")


def configuration(case: Case, dispatch: str, placement: Path | None, num_experts: int, ranks: int) -> RunConfig:
    """The run of a mode."""
    return RunConfig.model_validate(
        {
            "run": {"dir": "unused", "seed": SEED},
            "data": {"kind": "python_source", "context": case.context},
            "model": {
                "kind": "gpt",
                "hidden": case.hidden,
                "num_layers": case.num_layers,
                "num_heads": 4,
                "num_kv_heads": 1,
                "context": case.context,
            },
            "moe": {
                "num_experts": num_experts,
                "top_k": case.top_k,
                "expert_hidden": case.expert_hidden,
                "router": {"kind": "top_k", "aux_loss": 0.0},
                "dispatch": dispatch,
                "placement": placement,
            },
            "optim": {
                "steps": 1000,
                "global_batch": case.sequences * case.accumulation * ranks,
                "micro_batch": case.sequences,
            },
            "parallel": {"expert": ranks},
        }
    )


class Played:
    """Routers that make given choices; their gates stay learned."""

    def __init__(self, model: Any, ids_TLK: NDArray[np.integer], tokens: int, num_experts: int) -> None:
        """Takes over the routers of a model.

        Args:
            model: the network.
            ids_TLK: choices of this rank's tokens, played again and again.
            tokens: of a micro batch.
            num_experts: experts E of a layer.
        """
        repeated = np.resize(ids_TLK, (-(-max(len(ids_TLK), tokens) // tokens) * tokens, *ids_TLK.shape[1:]))
        chosen = torch.from_numpy(repeated.astype(np.int64)).unflatten(0, (-1, tokens))
        shape = (*chosen.shape[:3], num_experts)
        self._maps_MTLE = torch.zeros(shape, dtype=torch.bool).scatter_(3, chosen, True)
        self.micro = 0
        for layer, block in enumerate(model.blocks):
            block.feed_forward.router.register_forward_hook(self._hook(layer))

    def _hook(self, layer: int) -> Callable[..., tuple[Tensor, Tensor]]:
        def follow(router: Any, inputs: tuple[Tensor, ...], _output: Any) -> tuple[Tensor, Tensor]:
            map_TE = self._maps_MTLE[self.micro % len(self._maps_MTLE), :, layer]
            logits_TE = router.gating(inputs[0]).view(map_TE.shape)
            return logits_TE.masked_fill(~map_TE, -torch.inf).softmax(dim=1).masked_fill(~map_TE, 0.0), map_TE

        return follow


class Training:
    """A mode: its engine and its place in the data."""

    def __init__(self, case: Case, config: RunConfig, half: Half, bytes_N: Tensor) -> None:
        """Builds the engine on the process groups that exist."""
        from trainer.config.rules.plan import plan_layout
        from trainer.distributed.engine import build_engine
        from trainer.model.build import build_model

        assert config.moe is not None
        layout = plan_layout(config, dist.get_world_size(), ranks_per_node=int(os.environ["LOCAL_WORLD_SIZE"]))
        network: Any = build_model(config, layout)
        own = half.ids[half.source == dist.get_rank()]
        self._played = Played(network, own, case.tokens, config.moe.num_experts)
        self.engine = build_engine(network, config, layout, torch.device("cpu"))
        self._case, self._bytes_N = case, bytes_N
        self.loss = float("nan")

    def step(self, recording: Callable[[int], Any]) -> None:
        """One optimiser step; each micro batch runs inside `recording` of its number."""
        from trainer.trace.context import phase

        case, engine = self._case, self.engine
        for micro in range(case.accumulation):
            windows = len(self._bytes_N) // (case.context + 1)
            first = (self._played.micro * dist.get_world_size() + dist.get_rank()) * case.sequences
            rows = torch.arange(first, first + case.sequences) % windows
            text_BN = self._bytes_N[: windows * (case.context + 1)].view(windows, -1)[rows].long()
            with recording(micro):
                with phase("forward"):
                    loss = engine.model(text_BN[:, :-1], text_BN[:, 1:]).mean()
                with phase("backward"):
                    engine.backward(loss)
                if micro == case.accumulation - 1:
                    with phase("optimizer"):
                        engine.step(1e-3, lambda _: None)
            self._played.micro += 1
            self.loss = float(loss)


def main(folder: Path, case: Case, paths: Sequence[Path]) -> None:
    """Trains and, on rank 0, writes `training_placed.json`."""
    from contextlib import nullcontext

    from trainer.distributed.groups import divide_ranks, unite_ranks

    dist.init_process_group("gloo")
    rank, ranks, ranks_per_node = dist.get_rank(), dist.get_world_size(), int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = ranks // ranks_per_node
    traces = [RoutingTrace.read(path) for path in paths]
    num_experts = traces[0].header.num_experts
    solved, played = halves(case, traces, nodes, ranks_per_node)
    # A token costs a rank of its node a twentieth of one on another node, whose link all ranks share.
    topology = Topology.two_level(nodes, ranks_per_node, intra=0.05, inter=1.0, unit="crossings")
    if rank == 0:
        place(case, solved, num_experts, topology, folder)
    dist.barrier()
    divide_ranks(ranks, 1, ranks_per_node if 1 < ranks_per_node < ranks else None)
    contiguous = folder / "contiguous.json"
    if rank == 0:
        Placement.contiguous(case.num_layers, num_experts, nodes, ranks_per_node, dispatch="copies").write(contiguous)
    dist.barrier()
    modes = {
        BASELINE: ("copies", contiguous),
        "placed, copies": ("copies", folder / "copies.json"),
        "contiguous, hierarchical": ("hierarchical", contiguous),
        "placed, hierarchical": ("hierarchical", folder / "hierarchical.json"),
    }
    text = torch.frombuffer(bytearray(library(2_000_000)), dtype=torch.uint8)
    trainings = {
        name: Training(case, configuration(case, dispatch, path, num_experts, ranks), played, text)
        for name, (dispatch, path) in modes.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in modes}
    for turn in range(case.rounds + 1):
        for name, training in trainings.items():
            dist.barrier()
            begun = time.perf_counter()
            for _ in range(case.steps if turn else 1):
                training.step(lambda _micro: nullcontext())
            dist.barrier()
            if turn:
                seconds[name].append(time.perf_counter() - begun)
    between = {
        name: crossing_bytes(folder / "traces", training, ranks_per_node) for name, training in trainings.items()
    }
    losses = torch.tensor([training.loss for training in trainings.values()])
    dist.all_reduce(losses)
    if rank == 0:
        tokens = ranks * case.tokens * case.accumulation * case.steps
        figures: dict[str, Any] = {
            "case": asdict(case),
            "tokens_per_s": {name: tokens / median(times) for name, times in seconds.items()},
            "range_tokens_per_s": {name: [tokens / max(s), tokens / min(s)] for name, s in seconds.items()},
            "bytes_between_nodes": between,
            "load": {name: busiest(Placement.read(path), played) for name, (_, path) in modes.items()},
            "loss": dict(zip(modes, (losses / ranks).tolist(), strict=True)),
        }
        (folder / "training_placed.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    dist.barrier()
    unite_ranks()
    dist.destroy_process_group()


def crossing_bytes(folder: Path, training: Training, ranks_per_node: int) -> float:
    """Bytes of token messages that go from a node to another in one step, as recorded, over all ranks."""
    from moe.collective_trace import rank_path, read
    from trainer.trace.recorder import Recorder

    path = rank_path(folder, dist.get_rank())
    recorder = Recorder(path, steps=[1], ranks_per_node=ranks_per_node, group_names=training.engine.group_names)
    training.step(lambda micro: recorder.step(1, micro))
    recorder.write()
    header, records = read(path)
    sent = 0
    for record in records:
        if record.op == "all_to_all" and record.in_splits is not None:
            nodes = np.array(header.groups[record.group]) // ranks_per_node
            sent += int(np.array(record.in_splits)[nodes != dist.get_rank() // ranks_per_node].sum())
    total = torch.tensor(float(sent), dtype=torch.float64)
    dist.all_reduce(total)
    return float(total)


def busiest(placement: Placement, half: Half) -> float:
    """Choices on the busiest rank over the mean of all ranks, mean over layers."""
    ranks_LE = placement.expert_ranks()
    loads = [
        np.bincount(ranks_E[half.ids[:, layer]].ravel(), minlength=placement.num_ranks)
        for layer, ranks_E in enumerate(ranks_LE)
    ]
    return float(np.mean([load.max() / load.mean() for load in loads]))


def library(size: int) -> bytes:
    """The first bytes of the standard library's sources."""
    import sysconfig

    text = b""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text += path.read_bytes()
        if len(text) >= size:
            break
    return text[:size]


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ["DS_ACCELERATOR"] = "cpu"
    main(Path(sys.argv[1]), Case(**json.loads(sys.argv[2])), [Path(name) for name in sys.argv[3:]])
