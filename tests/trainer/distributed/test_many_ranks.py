"""512 ranks on one machine: what a rank of a large mixture builds, saves and sends, without values and without others.

The ranks are those of torch's fake process group, whose collectives do nothing. Run with -s to see times and figures.
"""

import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.forked import ROOT
from trainer.checkpoint.writers import check_complete, records_of, writes
from trainer.config.derived import expert_parameters
from trainer.config.file import load_config
from trainer.config.layout import Layout
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.distributed.groups import divide_ranks, unite_ranks
from trainer.experiment.forecast.spec import trace_spec
from trainer.experiment.forecast.trace import formula
from trainer.model.build import bare_network, dense_shapes, parameter_shapes
from trainer.model.parallel.state import Region, StatePiece, named_parameters

CONFIG = ROOT / "configs" / "runs" / "gpt_moe_512.yaml"
RANKS, RANK = 512, 317
KINDS = ("weight", "exp_avg", "exp_avg_sq", "ema")

pytestmark = pytest.mark.slow


class Clock:
    """Says how long each part took."""

    def __init__(self) -> None:
        self._at, self._cpu_at = time.perf_counter(), time.process_time()

    def told(self, part: str) -> None:
        """Prints the time since the part before."""
        at, cpu_at = time.perf_counter(), time.process_time()
        print(f"{part:<72} {at - self._at:6.2f} s, {cpu_at - self._cpu_at:6.2f} s of the processor")
        self._at, self._cpu_at = at, cpu_at


@contextmanager
def pretended(rank: int, num_ranks: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process as one of many ranks."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    dist.init_process_group("fake", rank=rank, world_size=num_ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def held(shapes: Sequence[tuple[str, tuple[int, ...]]], rank: int, num_ranks: int) -> Iterator[StatePiece]:
    """State of a rank's run of parameters that lie end to end, as ZeRO 1 divides them; without values."""
    total = sum(math.prod(shape) for _, shape in shapes)
    run = -(-total // num_ranks)
    first, end, before = rank * run, min((rank + 1) * run, total), 0
    for name, shape in shapes:
        size = math.prod(shape)
        start, stop = max(first, before) - before, min(end, before + size) - before
        if start < stop:
            values = torch.empty(stop - start, device="meta")
            for offset, rectangle in Region.whole(shape, start).rectangles(values):
                yield from (StatePiece(name, kind, shape, offset, rectangle) for kind in KINDS)
        before += size


def records_of_ranks(config: RunConfig, layout: Layout) -> list[NDArray[np.void]]:
    """What each rank says of the dense parameters, and of those of its experts, that it holds."""
    shapes, dense = parameter_shapes(config), list(dense_shapes(config).items())
    at_home = [layout.slot_to_expert(layer).reshape(layout.expert_parallel, -1) for layer in range(len(layout.slots))]
    found = []
    for rank in range(layout.world_size):
        place, copy = rank % layout.expert_parallel, rank // layout.expert_parallel
        names = [
            f"blocks.{layer}.feed_forward.experts.{expert}.{matrix}"
            for layer, of_ranks in enumerate(at_home)
            for matrix in ("linear_fc1.weight", "linear_fc2.weight")
            for expert in of_ranks[place]
        ]
        experts = held([(name, shapes[name]) for name in names], copy, layout.expert_data_parallel)
        alike: dict[tuple[str, tuple[int, ...]], list[StatePiece]] = {}
        for piece in (*held(dense, rank, layout.world_size), *experts):
            alike.setdefault((piece.name, piece.offset), []).append(piece)
        found.append(records_of(alike.values()))
    return found


def test_a_rank_of_512_of_a_mixture_of_31_billion_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    print()
    clock, begun = Clock(), time.perf_counter()
    config = load_config(str(CONFIG), [])
    layout = plan_layout(config, RANKS)
    assert config.moe is not None
    total = sum(math.prod(shape) for shape in parameter_shapes(config).values())
    assert total == pytest.approx(31e9, rel=0.02)
    clock.told("configuration and layout")
    import moe.layer  # noqa: F401  Megatron takes seconds to import

    clock.told("import of Megatron-Core")
    with pretended(RANK, RANKS, monkeypatch):
        divide_ranks(config.parallel.expert, config.parallel.tensor)
        clock.told(f"process groups of rank {RANK} of {RANKS}")
        network = bare_network(config, layout)
        named = named_parameters(network)
        clock.told("its part of the network, bare")
        unite_ranks()
    elements = sum(one.parameter.numel() for one in named)
    assert all(one.parameter.is_meta for one in named)
    experts = {expert for one in named if one.stack is not None for expert in one.stack.experts}
    assert experts == {RANK % 64}, "one of 64 experts a rank, in order"
    dense = sum(math.prod(shape) for shape in dense_shapes(config).values())
    assert elements == dense + config.model.num_layers * expert_parameters(config)
    print(f"    {total / 1e9:.1f} billion parameters, {elements / 1e9:.2f} on a rank in {len(named)} tensors")

    of_ranks = records_of_ranks(config, layout)
    records = np.concatenate(of_ranks)
    ranks = np.repeat(np.arange(RANKS), [len(one) for one in of_ranks])
    clock.told(f"{len(records)} records of what {RANKS} ranks hold for a checkpoint")
    written = writes(records, ranks)
    assert check_complete(records) == total, "every element of every average, once"
    shares = np.bincount(ranks, weights=written * records["elements"], minlength=RANKS)
    assert shares.sum() == total
    assert shares.max() < 1.3 * total / RANKS
    clock.told("which of them writes what")
    print(f"    {16 * shares.max() / 1e9:.2f} GB at most of {16 * total / 1e9:.0f} GB a rank writes")

    header, lines = formula(trace_spec(config, layout, ranks_per_node=8))
    own: Counter[tuple[str, str, str]] = Counter()
    count = 0
    for line in lines:
        count += 1
        if line.rank == RANK:
            own[line.phase, line.op, line.group] += 1
    assert header.world_size == RANKS
    assert count == RANKS * own.total(), "as many on every rank"
    clock.told(f"{count} records of the trace of a step, by formula")
    for (phase, operation, group), calls in own.items():
        print(f"    {phase:<10} {operation:<12} {group:<14} {calls:>4} a step")
    print(f"{time.perf_counter() - begun:.1f} s in all, with {os.cpu_count()} processors")
