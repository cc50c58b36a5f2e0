"""Blocks that compute twice: the same bits, the same counts, and the collectives that a second pass really sends."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moe.collective_trace import CollectiveRecord, read
from moe.routing_trace import RoutingTrace
from tests.ranks import run_ranks
from trainer.config.run import RunConfig
from trainer.flow import Condition

EXPERTS = {"num_experts": 4, "top_k": 2, "expert_hidden": 8}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None]] = {
    "dense, ZeRO 3": ("dit", {"zero_stage": 3}, None),
    "dense text": ("gpt", {"precision": "bf16"}, None),
    "home": ("dit", {}, {**EXPERTS, "router": {"kind": "top_k", "score": "sigmoid", "bias_rate": 0.01}}),
    "copies": ("dit", {"zero_stage": 0}, {**EXPERTS, "dispatch": "copies"}),
    "global potentials": ("dit", {}, {**EXPERTS, "router": {"kind": "sparse_ot", "potentials": "global"}}),
    "coherent": ("gpt", {}, {**EXPERTS, "dispatch": "coherent", "migration": {"every": 99}}),
}
STEPS = 2


def configuration(folder: Path, name: str, *, checkpointing: bool) -> RunConfig:
    kind, engine, moe = CASES[name]
    text = kind == "gpt"
    return RunConfig.model_validate(
        {
            "run": {"dir": folder},
            "model": {"kind": kind, "hidden": 16, "num_layers": 2, "num_heads": 4, "dropout": 0.1}
            | ({"context": 12} if text else {}),
            "data": {"context": 12} if text else {},
            "moe": moe,
            "optim": {"steps": STEPS, "global_batch": 8, "micro_batch": 2, "lr": 1e-2},
            "engine": {**engine, "activation_checkpointing": checkpointing},
            "parallel": {"expert": 2 if moe else 1},
            "trace": {"steps": [STEPS]},
        }
    )


class MergedHere:
    """Merges the traces of two ranks at once, where a run starts a process for it."""

    def __init__(self, folder: Path, *, routing: bool) -> None:
        from trainer.trace.merge import merge, merge_routing

        if routing:
            merge_routing(folder, 2)
        merge(folder, 2)

    def finish(self, *, stopped: bool) -> None:
        """There is nothing to wait for."""


def train(folder: Path, name: str, world_size: int, *, checkpointing: bool) -> dict[str, Any]:
    import torch.distributed as dist

    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.engine import build_engine
    from trainer.distributed.engine.ema import MovingAverage
    from trainer.distributed.groups import Launch
    from trainer.model.build import build_model
    from trainer.observe.expert_load import ExpertLoad
    from trainer.trace.context import phase
    from trainer.trace.session import TraceSession
    from trainer.training.migration.live import LiveMigration

    config = configuration(folder, name, checkpointing=checkpointing)
    layout = plan_layout(config, world_size)
    module = build_model(config, layout)
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():  # a block that starts as the identity would hide its second pass
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    engine = build_engine(module, config, layout, torch.device("cpu"))
    routers: list[Any] = [m for m in engine.module.modules() if hasattr(m, "update_bias")]
    load = ExpertLoad(engine.module, 1)
    migration = None
    if config.moe is not None and config.moe.migration is not None:
        migration = LiveMigration(config, layout, engine, MovingAverage(engine, 0.9))
    rank = dist.get_rank()
    trace = TraceSession(config, layout, Launch(rank, rank, world_size, world_size), engine, 0)
    found: dict[str, Any] = {"losses": [], "norms": [], "load": []}
    for step in range(1, STEPS + 1):
        load.start()
        for local in range(layout.accumulation):
            micro = rank * layout.accumulation + local
            generator = torch.Generator().manual_seed(100 * step + micro)
            torch.manual_seed(100 * step + micro)
            with trace.step(step, local, micro):
                with phase("forward"):
                    loss = some_loss(config, engine.model, generator)
                with phase("backward"):
                    engine.backward(loss)
                found["losses"].append(float(loss.detach()))
                if local == layout.accumulation - 1:
                    with phase("optimizer"):
                        found["norms"].append(engine.step(1e-2, lambda _norm: None).norm)
        for router in routers:
            router.update_bias()
        found["load"].append(load.reduced())
        trace.after(step)
    trace.finish()
    found["weights"] = {shard.name: shard.tensor.clone() for shard in engine.shards()}
    found["buffers"] = [buffer.clone() for router in routers for buffer in router.buffers()]
    if migration is not None:
        found["window"] = migration.state()["window"]
    return found


def some_loss(config: RunConfig, model: Any, generator: torch.Generator) -> Any:
    if config.model.kind == "gpt":
        tokens_BN = torch.randint(256, (2, 12), generator=generator)
        return model(tokens_BN, tokens_BN).mean()
    x_t = torch.randn(2, 1, 8, 8, generator=generator)
    return (model(x_t, torch.rand(2, generator=generator), Condition(torch.arange(2))) - x_t).square().mean()


def run_cases(_rank: int, world_size: int, root: str, names: list[str]) -> dict[str, tuple[dict[str, Any], ...]]:
    from megatron.core import parallel_state

    from trainer.trace import session

    session.Merging = MergedHere  # pyright: ignore[reportAttributeAccessIssue]
    parallel_state.initialize_model_parallel(expert_model_parallel_size=2)
    return {
        name: tuple(
            train(folder(Path(root), name, twice), name, world_size, checkpointing=bool(twice)) for twice in (0, 1)
        )
        for name in names
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    root = tmp_path_factory.mktemp("checkpointing")
    return root, run_ranks(run_cases, 2, str(root), list(CASES))


@pytest.mark.parametrize("name", CASES)
def test_a_second_pass_changes_no_bit_and_counts_nothing_twice(runs: tuple[Path, Any], name: str) -> None:
    for rank in runs[1]:
        once, twice = rank[name]
        assert once.keys() == twice.keys()
        assert once["losses"] == twice["losses"]
        assert once["norms"] == twice["norms"]
        assert once["load"] == twice["load"]
        for parameter, values in once["weights"].items():
            assert torch.equal(values, twice["weights"][parameter]), parameter
        for one, other in zip(once["buffers"], twice["buffers"], strict=True):
            assert torch.equal(one, other)
        if "window" in once:
            assert int(once["window"]["counts"].sum()) > 0
            assert torch.equal(once["window"]["counts"], twice["window"]["counts"])
            assert once["window"]["tokens"] == twice["window"]["tokens"]


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][2]])
def test_routing_traces_hold_each_token_once(runs: tuple[Path, Any], name: str) -> None:
    once, twice = (RoutingTrace.read(folder(runs[0], name, twice) / "traces" / "routing.npz") for twice in (0, 1))
    np.testing.assert_array_equal(once.expert_ids, twice.expert_ids)
    np.testing.assert_array_equal(once.source_rank, twice.source_rank)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][1].get("zero_stage") != 3])
def test_the_backward_pass_of_a_block_begins_with_the_collectives_of_its_forward_pass(
    runs: tuple[Path, Any], name: str
) -> None:
    once, twice = (recorded(folder(runs[0], name, twice)) for twice in (0, 1))
    assert {key: told for key, told in once.items() if key[3] != "backward"} == {
        key: told for key, told in twice.items() if key[3] != "backward"
    }
    assert once.keys() <= twice.keys()
    for key, told in twice.items():
        rank, step, micro, phase, layer = key
        if phase == "backward":
            again = once.get((rank, step, micro, "forward", layer), []) if layer is not None else []
            assert told == again + once.get(key, []), key


def folder(root: Path, name: str, twice: int) -> Path:
    return root / f"{list(CASES).index(name)}_{twice}"


def recorded(run: Path) -> dict[tuple[Any, ...], list[tuple[Any, ...]]]:
    """Operations of each rank, step, micro batch, phase and block, in order."""

    def place(record: CollectiveRecord) -> tuple[Any, ...]:
        return record.rank, record.step, record.micro, record.phase, record.layer

    _, records = read(run / "traces" / "collectives.jsonl")
    placed = itertools.groupby(sorted(records, key=lambda r: (r.rank, r.seq)), key=place)
    found: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for key, group in placed:
        found.setdefault(key, []).extend((r.op, r.group, r.dtype, r.bytes_in, r.in_splits, r.out_splits) for r in group)
    return found
