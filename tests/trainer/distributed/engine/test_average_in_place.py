"""The moving average: how much of it a rank keeps, and that what is asked of it between steps does not change them."""

import os
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import pytest
import torch

from tests.ranks import run_ranks
from tests.selected import selected
from trainer.config.run import RunConfig
from trainer.flow import UNCONDITIONAL

ENGINES: dict[str, dict[str, Any]] = {
    "ZeRO 0": {"zero_stage": 0},
    "ZeRO 1": {},
    "ZeRO 2": {"zero_stage": 2},
    "ZeRO 3": {"zero_stage": 3},
    "FSDP2": {"kind": "fsdp"},
    "ZeRO 1, bf16": {"precision": "bf16"},
    "ZeRO 2, bf16": {"zero_stage": 2, "precision": "bf16"},
    "ZeRO 3, bf16": {"zero_stage": 3, "precision": "bf16"},
    "FSDP2, bf16": {"kind": "fsdp", "precision": "bf16"},
}
STEPS, DECAY = 2, 0.9
ALONE = {"ZeRO 0", "ZeRO 2, bf16", "FSDP2"}
"""Engines that the suite has on one rank too, where nothing is divided."""
TOGETHER = {"ZeRO 0", "ZeRO 1", "ZeRO 2, bf16", "ZeRO 3, bf16", "FSDP2", "FSDP2, bf16"}
"""Those that it has on two: every stage, and in bf16, whose masters are apart, those that divide more than states."""
IN_THE_SUITE = {1: ALONE, 2: TOGETHER}
CASES = [
    pytest.param((world_size, name), marks=() if name in IN_THE_SUITE[world_size] else pytest.mark.slow)
    for world_size in (1, 2)
    for name in ENGINES
]
Values = list[torch.Tensor]
Found = dict[str, tuple[dict[str, Any], ...]]
Case = tuple[int, str]
Ranks = Callable[[Case], list[tuple[dict[str, Any], ...]]]


def trained(engine_settings: dict[str, Any], world_size: int, *, examined: bool) -> dict[str, Any]:
    """Losses and weights of a few steps, with or without an evaluation of the averaged weights after each.

    Returns:
        The losses; the master weights after each step and the averages after the last; bytes of the averages, and of
        the weights of the whole network; if it was examined, also what the network computed with and the master weights
        and averages, in the last evaluation and behind it.
    """
    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.engine import build_engine
    from trainer.distributed.engine.ema import MovingAverage
    from trainer.distributed.groups import divide_ranks, unite_ranks
    from trainer.model.build import build_model

    config = RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"kind": "mlp", "hidden": 32, "num_layers": 2},
            "data": {"kind": "toy"},
            "optim": {"steps": STEPS, "global_batch": 4 * world_size, "micro_batch": 4},
            "engine": engine_settings,
        }
    )
    layout = plan_layout(config, world_size)
    divide_ranks(1, 1)
    model = build_model(config, layout)
    whole_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    engine = build_engine(model, config, layout, torch.device("cpu"))
    average, generator = MovingAverage(engine, DECAY), torch.Generator().manual_seed(0)

    def masters() -> Values:
        return copies(piece.tensor for piece in engine.state() if piece.kind == "weight")

    def computes_with() -> Values:
        return copies(values for shard in engine.shards() for _, values in shard.region.rectangles(shard.tensor))

    found: dict[str, Any] = {"losses": [], "masters": [masters()], "whole": whole_bytes}
    for step in range(1, STEPS + 1):
        x, t = torch.randn(4, 2, generator=generator), torch.rand(4, generator=generator)
        loss = (engine.model(x, t, UNCONDITIONAL) - x).square().mean()
        engine.backward(loss)
        engine.step(0.1, lambda _: None)
        average.update(step)
        found["losses"].append(float(loss.detach()))
        found["masters"].append(masters())
        if examined:
            before = [masters(), computes_with(), copies(piece.tensor for piece in average.state())]
            with torch.no_grad(), average.in_place():
                engine.module(x, t, UNCONDITIONAL)
                found["inside"] = computes_with()
                found["inside, masters"] = masters()
            found["before"] = before
            found["behind"] = [masters(), computes_with(), copies(piece.tensor for piece in average.state())]
    found["average"] = copies(piece.tensor for piece in average.state())
    memories = {storage.data_ptr(): storage.nbytes() for storage in map(storage_of, average.state())}
    found["bytes"] = sum(memories.values())
    unite_ranks()
    return found


def storage_of(piece: Any) -> torch.UntypedStorage:
    return piece.tensor.untyped_storage()


def copies(tensors: Iterable[torch.Tensor]) -> Values:
    return [tensor.detach().clone() for tensor in tensors]


def both(rank: int, world_size: int, names: list[str]) -> Found:
    """What is found without and with evaluations, by engine."""
    os.environ["LOCAL_RANK"] = str(rank)
    return {
        name: tuple(trained(ENGINES[name], world_size, examined=examined) for examined in (False, True))
        for name in names
    }


@pytest.fixture(scope="module")
def ranks(request: pytest.FixtureRequest) -> Ranks:
    """What each rank finds in a case; those of a number of ranks are trained together when it is first asked for."""

    @cache
    def found(world_size: int) -> list[Found]:
        cases = selected(request, "case")
        return run_ranks(both, world_size, [name for ranks, name in cases if ranks == world_size])

    return lambda case: [rank[case[1]] for rank in found(case[0])]


def same(one: Values, other: Values) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_evaluation_of_the_average_changes_no_step(ranks: Ranks, case: Case) -> None:
    for undisturbed, examined in ranks(case):
        assert examined["losses"] == undisturbed["losses"]
        assert len(set(undisturbed["losses"])) == STEPS
        assert same(examined["masters"][-1], undisturbed["masters"][-1])
        assert same(examined["average"], undisturbed["average"])
        for before, behind in zip(examined["before"], examined["behind"], strict=True):
            assert same(before, behind), "master weights, computing weights and averages, bit for bit"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_evaluation_computes_with_the_average(ranks: Ranks, case: Case) -> None:
    everywhere = [examined for _, examined in ranks(case)]
    for found in everywhere:
        assert same(found["inside, masters"], found["average"])
        assert not same(found["average"], found["masters"][-1])
    averages, used = (
        torch.cat([values.flatten() for found in everywhere for values in found[which]]).sort().values
        for which in ("average", "inside")
    )
    if used.dtype == torch.bfloat16:
        averages = averages.bfloat16()
    copied = used.numel() // averages.numel()  # each rank of ZeRO 1 and 2 computes with all of them
    assert torch.equal(averages.repeat_interleave(copied), used)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_the_average_of_the_master_weights(ranks: Ranks, case: Case) -> None:
    for found, _ in ranks(case):
        expected = [weight.double() for weight in found["masters"][0]]
        for step, weights in enumerate(found["masters"][1:], start=1):
            decay = min(DECAY, (1 + step) / (10 + step))
            expected = [decay * one + (1 - decay) * new.double() for one, new in zip(expected, weights, strict=True)]
        for average, closed in zip(found["average"], expected, strict=True):
            torch.testing.assert_close(average.double(), closed, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_rank_keeps_its_share(ranks: Ranks, case: Case) -> None:
    world_size, name = case
    shares = 1 if name == "ZeRO 0" else world_size
    for found, _ in ranks(case):
        assert found["bytes"] == pytest.approx(found["whole"] / shares, rel=0.03)
