"""What runs on each rank: the routers on every workload, and the layer on the same batches against the clock.

The first columns of a token are its logits, the next is 1, and the gate begins as the identity. So a workload decides
what the router sees, and a gate that learns from an auxiliary loss has a bias for each expert to learn with.

Shape legend: S measured batches, R ranks, T tokens of a rank, E experts, K most choices of a token, D model width.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from moe.config import (
    BaseAssignmentRouterConfig,
    ExpertChoiceRouterConfig,
    MoEConfig,
    RouterConfig,
    SinkhornRouterConfig,
    SparseOTRouterConfig,
    TopKRouterConfig,
)
from moe.dispatch.node_groups import divide_nodes
from moe.routing_trace import RoutingTrace
from tests.benchmarks.imbalance.traffic import NODES
from tests.benchmarks.imbalance.workloads import LOADS, Logits, Shape, real, synthetic

SHAPE = Shape(ranks=4, tokens=128, experts=64, top_k=6)
WIDTH, EXPERT_HIDDEN = 128, 256
WARM_UP, MEASURED = 40, 8
GATE_RATE = 10.0
"""Of gradient descent on the auxiliary loss: high enough to balance Zipf's loads within the batches of the warm-up."""
REAL = "real"
LAYER = 13
ROUTERS: dict[str, RouterConfig] = {
    "top-k": TopKRouterConfig(aux_loss=0.0),
    "top-k, capacity 1.25": TopKRouterConfig(aux_loss=0.0, capacity_factor=1.25),
    "top-k, auxiliary loss": TopKRouterConfig(aux_loss=0.01),
    "top-k, loss-free bias": TopKRouterConfig(score="sigmoid", aux_loss=0.0, bias_rate=0.02),
    "sinkhorn": SinkhornRouterConfig(),
    "base (one expert)": BaseAssignmentRouterConfig(),
    "expert choice": ExpertChoiceRouterConfig(),
    "sparse OT": SparseOTRouterConfig(),
}
Dispatch = Literal["home", "copies", "hierarchical", "coherent"]
MODES: tuple[Dispatch, ...] = ("home", "copies", "hierarchical", "coherent")


@dataclass(frozen=True)
class Plan:
    """What the ranks do.

    Attributes:
        seed: of all draws.
        traces: routing traces of the real workload; none: it is left out.
        rounds: turns of each layer on each workload; 0: nothing is timed.
    """

    seed: int
    traces: tuple[Path, ...]
    rounds: int

    @property
    def workloads(self) -> list[str]:
        """Names of the workloads."""
        return [*LOADS, *([REAL] if self.traces else [])]


@dataclass(frozen=True, eq=False)
class Routed:
    """Choices of this rank's tokens, by workload and router.

    Attributes:
        chosen: experts by falling gate value, -1 where there is none, int [S, T, K]: the batches before those measured.
        measured: the same of the measured batches.
        dropped: due choices that no expert took, over those due, in the measured batches.
    """

    chosen: NDArray[np.int64]
    measured: NDArray[np.int64]
    dropped: float


Key = tuple[str, str]
"""Workload and router."""
Turns = dict[tuple[str, str, str], NDArray[np.float64]]
"""Wall and CPU seconds of each pass, [rounds, S, 2], by workload, router and mode."""


def allows(router: RouterConfig, mode: str) -> bool:
    """Whether a dispatch mode works with a router; coherent dispatch refuses those that drop tokens."""
    drops = isinstance(router, ExpertChoiceRouterConfig) or getattr(router, "capacity_factor", None) is not None
    return mode != "coherent" or not drops or isinstance(router, SparseOTRouterConfig)


def measure(rank: int, world_size: int, plan: Plan) -> tuple[dict[Key, Routed], Turns]:
    """Routes every workload by every router, and times the layers.

    Args:
        rank: this rank.
        world_size: all ranks; they share the experts.
        plan: what is done.

    Returns:
        The choices of this rank's tokens, and its turns.
    """
    from megatron.core import parallel_state

    assert world_size == SHAPE.ranks
    parallel_state.initialize_model_parallel(expert_model_parallel_size=world_size)
    divide_nodes(world_size, world_size // NODES)
    tokens = {name: tuple(_tokens(plan, name, rank)) for name in plan.workloads}
    routed: dict[Key, Routed] = {}
    turns: Turns = {}
    for name, router in ROUTERS.items():
        layers: dict[Dispatch, Any] = {mode: _layer(router, mode) for mode in MODES if allows(router, mode)}
        states: dict[str, dict[str, Any]] = {}
        for workload in plan.workloads:
            own = _fresh(layers["home"].router)
            routed[workload, name] = _route(own, tokens[workload], learns=name == "top-k, auxiliary loss")
            states[workload] = {key: value.clone() for key, value in own.state_dict().items() if value is not None}
        if plan.rounds:
            measured = {workload: batches[WARM_UP:] for workload, batches in tokens.items()}
            for (workload, mode), times in _timed(layers, states, measured, plan).items():
                turns[workload, name, mode] = times
    return routed, turns


def _tokens(plan: Plan, workload: str, rank: int) -> Iterator[Tensor]:
    """This rank's tokens [T, 1, D] of every batch."""
    steps = WARM_UP + MEASURED
    batches: Iterator[Logits]
    if workload == REAL:
        batches = real([RoutingTrace.read(path) for path in plan.traces], LAYER, SHAPE, steps, plan.seed)
    else:
        batches = synthetic(workload, SHAPE, steps, plan.seed)
    for logits_RTE in batches:
        tokens_TD = torch.zeros(SHAPE.tokens, WIDTH)
        tokens_TD[:, : SHAPE.experts] = torch.from_numpy(logits_RTE[rank])
        tokens_TD[:, SHAPE.experts] = 1
        yield tokens_TD[:, None]


def _layer(router: RouterConfig, mode: Dispatch) -> Any:
    from moe.coherent_layer import CoherentMoELayer
    from moe.layer import PlacedMoELayer, transformer_config

    top_k = 1 if isinstance(router, BaseAssignmentRouterConfig) else SHAPE.top_k
    config = MoEConfig(
        num_experts=SHAPE.experts, top_k=top_k, expert_hidden=EXPERT_HIDDEN, router=router, dispatch=mode
    )
    megatron = transformer_config(
        config, hidden=WIDTH, num_layers=1, num_heads=1, expert_parallel=SHAPE.ranks, dtype=torch.float32
    )
    kind = CoherentMoELayer if mode == "coherent" else PlacedMoELayer
    return kind(config, megatron, layer=0, seed=1, slot_to_expert=np.arange(SHAPE.experts))


@torch.no_grad()
def _fresh(router: Any) -> Any:
    """The router with nothing learnt and the identity for a gate."""
    for buffer in router.buffers():
        buffer.zero_()
    if hasattr(router, "average_scale"):
        router.average_scale.fill_(1)
    router.weight.copy_(torch.eye(SHAPE.experts, WIDTH))
    return router.train()


def _route(router: Any, batches: tuple[Tensor, ...], *, learns: bool) -> Routed:
    """Routes batch after batch; the router, and a gate with an auxiliary loss, learn from each."""
    optimizer = torch.optim.SGD([router.weight], lr=GATE_RATE) if learns else None
    chosen, dropped, due = [], 0, 0
    for step, tokens_T1D in enumerate(batches):
        probs_TE, map_TE = router(tokens_T1D)
        if optimizer is not None:
            (0 * probs_TE).sum().backward()  # leaves the gradient of the auxiliary loss
            assert router.weight.grad is not None
            dist.all_reduce(router.weight.grad)
            router.weight.grad /= SHAPE.ranks
            optimizer.step()
            optimizer.zero_grad()
        if step >= WARM_UP - MEASURED:
            chosen.append(_choices(probs_TE.detach(), map_TE))
        if step >= WARM_UP:
            report = router.report()
            dropped, due = dropped + int(report["dropped_choices"]), due + int(report["due_choices"])
        router.update_bias()
    before, measured = np.split(_stacked(chosen), [MEASURED])
    return Routed(before, measured, dropped / due)


def _choices(probs_TE: Tensor, map_TE: Tensor) -> NDArray[np.int64]:
    """Experts of each token by falling gate value, -1 behind them."""
    order_TE = torch.where(map_TE, probs_TE, -1).argsort(dim=1, descending=True, stable=True)
    most = max(int(map_TE.sum(dim=1).max()), 1)
    return torch.where(map_TE.gather(1, order_TE), order_TE, -1)[:, :most].numpy()


def _stacked(chosen: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    most = max(ids_TK.shape[1] for ids_TK in chosen)
    return np.stack([np.pad(ids, ((0, 0), (0, most - ids.shape[1])), constant_values=-1) for ids in chosen])


def _timed(
    layers: Mapping[Dispatch, Any],
    states: Mapping[str, dict[str, Any]],
    batches: Mapping[str, tuple[Tensor, ...]],
    plan: Plan,
) -> dict[tuple[str, Dispatch], NDArray[np.float64]]:
    """Times the measured batches; for each batch, workloads and modes take turns in an order that is drawn anew."""
    passes = {mode: _coherent_pass if mode == "coherent" else _pass for mode in layers}
    pairs: list[tuple[str, Dispatch]] = [(workload, mode) for workload in batches for mode in layers]
    for mode, layer in layers.items():
        passes[mode](layer, batches["even"][0])
    times = {pair: np.zeros((plan.rounds, MEASURED, 2)) for pair in pairs}
    order = Random(plan.seed)
    for turn in range(plan.rounds):
        for step in range(MEASURED):
            for workload, mode in order.sample(pairs, len(pairs)):
                layers[mode].router.load_state_dict(states[workload], strict=False)
                times[workload, mode][turn, step] = _turn(layers[mode], passes[mode], batches[workload][step])
    return times


def _turn(layer: Any, run: Callable[[Any, Tensor], None], tokens_T1D: Tensor) -> tuple[float, float]:
    """Wall seconds from barrier to barrier, and CPU seconds of this rank."""
    dist.barrier()
    began_s, cpu_began_s = time.perf_counter(), time.process_time()
    run(layer, tokens_T1D)
    cpu_s = time.process_time() - cpu_began_s
    dist.barrier()
    wall_s = time.perf_counter() - began_s
    layer.router.forget()
    layer.zero_grad(set_to_none=True)
    return wall_s, cpu_s


def _pass(layer: Any, tokens_T1D: Tensor) -> None:
    layer(tokens_T1D.clone().requires_grad_()).sum().backward()


def _coherent_pass(layer: Any, tokens_T1D: Tensor) -> None:
    from moe.dispatch.residency import Residency

    rows_TD = tokens_T1D[:, 0].clone().requires_grad_()
    home = Residency.home(len(rows_TD), layer.ep_group, rows_TD.device)
    rows, fed, _ = layer(rows_TD, home, lambda values: values)
    (rows + fed).sum().backward()
