"""The training state of an engine as rectangles of whole tensors, for every ZeRO stage."""

import itertools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch

from tests.ranks import run_ranks
from tests.selected import selected
from tests.trainer.training.migration.migrated import Run
from tests.trainer.training.migration.migrated import configuration as with_experts
from trainer.config.run import RunConfig
from trainer.model.parallel.state import Region

KINDS = ("weight", "exp_avg", "exp_avg_sq")
CASES = {
    "ZeRO 0": {"zero_stage": 0},
    "ZeRO 1": {"zero_stage": 1},
    "ZeRO 2": {"zero_stage": 2},
    "ZeRO 2, bf16": {"zero_stage": 2, "precision": "bf16"},
    "ZeRO 1, accumulation": {"zero_stage": 1, "micro_batch": 2},
    "dense, ZeRO 1": {"zero_stage": 1},
    "dense, ZeRO 3": {"zero_stage": 3},
    "dense, ZeRO 3, bf16": {"zero_stage": 3, "precision": "bf16"},
}
SLOW = {"ZeRO 1", "ZeRO 2", "dense, ZeRO 3"}
"""Of these the suite has another case: ZeRO 1 with accumulation, ZeRO 2 and 3 in bf16."""


def marked(cases: Iterable[str]) -> list[Any]:
    return [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in cases]


def configuration(case: str) -> RunConfig:
    config = with_experts(**({**CASES[case], "zero_stage": 1} if "dense" in case else CASES[case]))  # type: ignore[arg-type]
    if "dense" not in case:
        return config
    document = config.model_dump() | {"moe": None, "parallel": {"expert": 1}}
    document["engine"] |= CASES[case]
    return RunConfig.model_validate(document)


def observed(run: Run) -> dict[str, Any]:
    """What a rank shows of its state, and what its network computes with."""
    pieces = [(p.name, p.kind, p.shape, p.offset, p.tensor.clone()) for p in run.engine.state()]
    network = [
        (shard.name, "weight", shard.shape, offset, values.float().clone())
        for shard in run.engine.shards()
        for offset, values in shard.region.rectangles(shard.tensor)
    ]
    return {"pieces": pieces, "network": network, "updates": run.engine.updates}


def show_and_change(_rank: int, world_size: int, cases: list[str]) -> dict[str, Any]:
    """Each case: before a step, after one, and after every value was replaced by a function of its name and kind."""
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(expert_model_parallel_size=2)
    found = {}
    for case in cases:
        run = Run(configuration(case), world_size)
        found[case] = {"untrained": observed(run)}
        run.step(1)
        found[case]["trained"] = observed(run)
        found[case]["experts"] = {
            (shard.name, kind): value.clone()
            for shard in run.engine.shards()
            if shard.expert is not None
            for kind, value in run.engine.expert_state(shard).items()
        }
        for piece in run.engine.state():
            piece.tensor.fill_(filled(piece.name, piece.kind))
        run.engine.state_loaded(7)
        found[case]["changed"] = observed(run)
        run.step(2)
        found[case]["updates"] = run.engine.updates
    return found


def filled(name: str, kind: str) -> float:
    """A value that bfloat16 holds exactly, and small enough for gradients to be finite."""
    return (1 + sum(name.encode()) % 64) / 4096 * (KINDS.index(kind) + 1)


@pytest.fixture(scope="module")
def ranks(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return run_ranks(show_and_change, 4, selected(request, "case"))


def assembled(shown: list[list[tuple[Any, ...]]]) -> dict[tuple[str, str], torch.Tensor]:
    """Whole tensors from the pieces of all ranks; copies of the same element agree, and no element is missing."""
    whole: dict[tuple[str, str], torch.Tensor] = {}
    for name, kind, shape, offset, values in itertools.chain.from_iterable(shown):
        tensor = whole.setdefault((name, kind), torch.full(shape, math.nan))
        window = tensor[tuple(slice(o, o + n) for o, n in zip(offset, values.shape, strict=True))]
        assert values.dtype == torch.float32
        assert (window.isnan() | (window == values)).all(), (name, kind)
        window.copy_(values)
    assert not any(tensor.isnan().any() for tensor in whole.values())
    return whole


@pytest.mark.parametrize("case", marked(CASES))
def test_the_pieces_of_all_ranks_make_up_the_state(ranks: list[dict[str, Any]], case: str) -> None:
    for moment, updates in (("untrained", 0), ("trained", 1), ("changed", 7)):
        whole = assembled([rank[case][moment]["pieces"] for rank in ranks])
        network = assembled([rank[case][moment]["network"] for rank in ranks])
        assert whole.keys() == {(name, kind) for name, _ in network for kind in KINDS}
        assert {rank[case][moment]["updates"] for rank in ranks} == {updates}
        for (name, _), value in network.items():
            master = whole[name, "weight"]
            assert torch.equal(value, master.bfloat16().float() if "bf16" in case else master), name
        for (name, kind), tensor in whole.items():
            if moment == "untrained" and kind != "weight":
                assert not tensor.any()
            if moment == "changed":
                assert (tensor == filled(name, kind)).all()
    assert {rank[case]["updates"] for rank in ranks} == {8}


@pytest.mark.parametrize("case", marked(case for case in CASES if "dense" not in case))
def test_experts_are_those_that_migration_sees(ranks: list[dict[str, Any]], case: str) -> None:
    whole = assembled([rank[case]["trained"]["pieces"] for rank in ranks])
    for rank in ranks:
        for key, value in rank[case]["experts"].items():
            assert torch.equal(value, whole[key]), key


@pytest.mark.parametrize("shape", [(), (1,), (7,), (4, 5), (1, 6), (3, 4, 5), (2, 3, 1, 4)])
def test_a_run_of_elements_is_cut_into_few_rectangles(shape: tuple[int, ...]) -> None:
    numel = math.prod(shape)
    whole = torch.arange(numel).view(shape)
    for start, stop in itertools.combinations(range(numel + 1), 2):
        stored = torch.cat([whole.flatten()[start:stop], torch.full((3 * (stop == numel),), -1)])
        cut = Region.whole(shape, start).rectangles(stored)
        assert len(cut) <= max(1, 2 * len(shape) - 1)
        found = []
        for offset, values in cut:
            assert values.untyped_storage().data_ptr() == stored.untyped_storage().data_ptr()
            window = whole[tuple(slice(o, o + n) for o, n in zip(offset, values.shape, strict=True))]
            assert torch.equal(window, values)
            found += values.flatten().tolist()
        assert found == list(range(start, stop))


def test_a_run_of_a_box_lies_in_the_whole() -> None:
    whole = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 8)))
    box = whole[2:5, 4:8].contiguous()
    for offset, values in Region((6, 8), (2, 4), (3, 4), start=3).rectangles(box.flatten()[3:10]):
        window = whole[tuple(slice(o, o + n) for o, n in zip(offset, values.shape, strict=True))]
        assert torch.equal(window, values)
