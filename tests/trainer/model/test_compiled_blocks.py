"""Compiled blocks: the losses of uncompiled ones, and the same collectives around them, recorded or not."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from moe.collective_trace import CollectiveRecord, rank_path, read
from tests.ranks import run_ranks
from trainer.config.run import RunConfig
from trainer.flow import Condition

CASES = {"ZeRO 1": {"kind": "deepspeed"}, "FSDP2": {"kind": "fsdp"}}
GRAPHS = "as graphs"
"""The suite runs the graphs of blocks as they are traced; to compile them takes half a minute."""
STEPS = (1, 2, 3)


def train(config: RunConfig, world_size: int, folder: Path, recorded: tuple[int, ...]) -> list[tuple[float, float]]:
    """Losses and norms of this rank; the recording lies in the folder."""
    import torch.distributed as dist

    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.engine import build_engine
    from trainer.model.build import build_model
    from trainer.trace.context import phase
    from trainer.trace.recorder import Recorder

    layout = plan_layout(config, world_size)
    engine = build_engine(build_model(config, layout), config, layout, torch.device("cpu"))
    recorder = Recorder(
        rank_path(folder, dist.get_rank()),
        steps=recorded,
        ranks_per_node=2,
        group_names=engine.group_names,
        blocks=list(engine.module.get_submodule("blocks").children()),
    )
    told = []
    for step in STEPS:
        generator = torch.Generator().manual_seed(10 * step + dist.get_rank())
        torch.manual_seed(10 * step + dist.get_rank())
        x_t = torch.randn(4, 1, 8, 8, generator=generator)
        with recorder.step(step):
            with phase("forward"):
                predicted = engine.model(x_t, torch.rand(4, generator=generator), Condition(torch.arange(4)))
                loss = (predicted - x_t).square().mean()
            with phase("backward"):
                engine.backward(loss)
            with phase("optimizer"):
                told.append((float(loss.detach()), engine.step(1e-2, lambda _norm: None).norm))
    recorder.write()
    return told


def traced(function: Any, **_: Any) -> Any:
    return COMPILE(function, fullgraph=True, backend="aot_eager")


COMPILE = torch.compile


def run_case(_rank: int, world_size: int, root: str, name: str, way: str) -> dict[str, list[tuple[float, float]]]:
    with patch.object(torch, "compile", traced if way == GRAPHS else COMPILE):
        return run_ways(world_size, root, name)


def run_ways(world_size: int, root: str, name: str) -> dict[str, list[tuple[float, float]]]:
    import torch._inductor.config
    from megatron.core import parallel_state

    torch._inductor.config.compile_threads = 1  # and no processes to compile in, which import torch first
    parallel_state.initialize_model_parallel()
    told = {}
    for way, compiled, recorded in (("plain", False, (2, 3)), ("compiled", True, (2, 3)), ("unseen", True, ())):
        config = RunConfig.model_validate(
            {
                "run": {"dir": "unused"},
                "model": {"hidden": 16, "num_layers": 2, "num_heads": 4, "dropout": 0.1},
                "optim": {"steps": 3, "global_batch": 8},
                "engine": {**CASES[name], "compile": compiled},
            }
        )
        told[way] = train(config, world_size, Path(root) / way, recorded)
    return told


@pytest.fixture(
    scope="module",
    params=[("ZeRO 1", GRAPHS), *(pytest.param((name, "compiled"), marks=pytest.mark.slow) for name in CASES)],
    ids=", ".join,
)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    root = tmp_path_factory.mktemp("compiled")
    return root, run_ranks(run_case, 2, str(root), *request.param)


def test_compiled_blocks_take_the_same_steps(runs: tuple[Path, list[dict[str, Any]]]) -> None:
    for told in runs[1]:
        np.testing.assert_allclose(told["compiled"], told["plain"], rtol=1e-5)
        assert told["compiled"] == told["unseen"], "recording changes nothing"


def test_the_collectives_are_those_of_uncompiled_blocks(runs: tuple[Path, list[dict[str, Any]]]) -> None:
    for rank in range(2):
        plain, compiled = (
            [timeless(record) for record in read(rank_path(runs[0] / way, rank))[1]] for way in ("plain", "compiled")
        )
        assert plain
        assert plain == compiled


def timeless(record: CollectiveRecord) -> tuple[Any, ...]:
    told = (record.step, record.micro, record.phase, record.layer, record.op, record.group, record.dtype)
    return *told, record.bytes_in, record.bytes_out


def in_a_graph(_rank: int, _world_size: int, folder: str, backend: str) -> None:
    """One all-reduce and one all-gather, called by themselves and from a compiled graph."""
    import torch._inductor.config
    import torch.distributed as dist
    from torch.distributed import _functional_collectives as functional

    from trainer.trace.recorder import Recorder

    torch._inductor.config.compile_threads = 1

    group = dist.group.WORLD
    assert group is not None

    def sums(x: torch.Tensor) -> torch.Tensor:
        y = functional.all_reduce(2 * x, "sum", group)
        return functional.all_gather_tensor(y + 1, 0, group)

    graph = torch.compile(sums, fullgraph=True, backend=backend)
    expected = sums(torch.ones(6))
    torch.testing.assert_close(graph(torch.ones(6)), expected)
    recorder = Recorder(rank_path(Path(folder), dist.get_rank()), steps=(1, 2, 3), ranks_per_node=2)
    with recorder.step(1):
        sums(torch.ones(6)).sum()
    with recorder.step(2):
        graph(torch.ones(6)).sum()
    with recorder.step(3):
        value = torch.full((6,), 2.0)
        dist.all_reduce(value)
        dist.all_gather(list(torch.empty(12).chunk(2)), value + 1)
    recorder.write()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_collectives_inside_a_graph_are_recorded_as_those_outside(backend: str, tmp_path: Path) -> None:
    run_ranks(in_a_graph, 2, str(tmp_path), backend)
    for rank in range(2):
        _, records = read(rank_path(tmp_path, rank))
        by_step = [[(r.op, r.dtype, r.bytes_in, r.bytes_out) for r in records if r.step == step] for step in (1, 2, 3)]
        assert by_step[0] == by_step[1] == by_step[2]
        assert [op for op, *_ in by_step[0]] == ["all_reduce", "all_gather"]
