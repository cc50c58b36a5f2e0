"""FSDP2 on one rank and on several: the same steps, whatever the rows are divided over, and the steps of ZeRO."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from tests.ranks import run_ranks
from trainer.config.run import RunConfig
from trainer.flow import Condition

STEPS = 3
CASES: dict[str, dict[str, Any]] = {
    "fp32": {"clip_norm": 0.5},
    "no clipping, kept": {"clip_norm": None, "reshard_after_forward": False},
    "computed twice": {"clip_norm": 0.5, "activation_checkpointing": True},
    "bf16": {"clip_norm": 0.5, "precision": "bf16"},
    "text": {"clip_norm": 0.5, "kind": "gpt"},
    "ZeRO 1": {"clip_norm": 0.5, "engine": "deepspeed"},
}


def configuration(*, kind: str = "dit", engine: str = "fsdp", clip_norm: float | None, **settings: Any) -> RunConfig:
    """A network of which some parameters have fewer rows than there are ranks, or a number that does not divide."""
    sizes = {"context": 12} if kind == "gpt" else {"patch_size": 1}
    return RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"kind": kind, "hidden": 8, "num_layers": 2, "num_heads": 2, "dropout": 0.1, **sizes},
            "data": {"context": 12} if kind == "gpt" else {},
            "optim": {"steps": STEPS, "global_batch": 16, "micro_batch": 2, "clip_norm": clip_norm},
            "engine": {"kind": engine, **settings},
        }
    )


class Run:
    """One rank of a run whose micro batches, and the draws in them, do not depend on the number of ranks."""

    def __init__(self, config: RunConfig, world_size: int) -> None:
        from trainer.config.rules.plan import plan_layout
        from trainer.distributed.engine import build_engine
        from trainer.distributed.engine.ema import MovingAverage
        from trainer.model.build import build_model

        self.config, self.world_size = config, world_size
        self.layout = plan_layout(config, world_size)
        self.engine = build_engine(build_model(config, self.layout), config, self.layout, torch.device("cpu"))
        self.average = MovingAverage(self.engine, 0.9)

    def step(self, step: int, *, accepts: bool = True) -> tuple[float, float]:
        """Loss over all ranks, and norm."""
        import torch.distributed as dist

        total = torch.zeros(())
        for local in range(self.layout.accumulation):
            micro = dist.get_rank() * self.layout.accumulation + local
            torch.manual_seed(1000 * step + micro)
            loss = self.loss(self.engine.model, torch.Generator().manual_seed(1000 * step + micro))
            self.engine.backward(loss)
            total += loss.detach() / self.layout.accumulation
        dist.all_reduce(total)
        outcome = self.engine.step(1e-2, lambda _norm: None if accepts else "it is refused")
        assert outcome.taken == accepts
        if accepts:
            self.average.update(step)
        return float(total) / self.world_size, outcome.norm

    def loss(self, model: Any, generator: torch.Generator) -> torch.Tensor:
        if self.config.model.kind == "gpt":
            tokens_BN = torch.randint(256, (2, 12), generator=generator)
            return model(tokens_BN, tokens_BN).mean()
        x_t = torch.randn(2, 1, 8, 8, generator=generator)
        return (model(x_t, torch.rand(2, generator=generator), Condition(torch.arange(2))) - x_t).square().mean()

    def held_out(self) -> float:
        with self.average.in_place(), torch.no_grad():
            return float(self.loss(self.engine.module, torch.Generator().manual_seed(0)))

    def pieces(self) -> list[tuple[Any, ...]]:
        return [(p.name, p.kind, p.shape, p.offset, p.tensor.clone()) for p in self.engine.state()]

    def averages(self) -> list[tuple[Any, ...]]:
        return [(p.name, p.kind, p.shape, p.offset, p.tensor.clone()) for p in self.average.state()]


def trajectory(config: RunConfig, world_size: int) -> dict[str, Any]:
    run = Run(config, world_size)
    first = run.pieces()
    assert run.engine.updates == 0
    told = [run.step(step) for step in range(1, STEPS + 1)]
    kept = run.pieces()
    run.step(99, accepts=False)
    assert run.engine.updates == STEPS
    for one, other in zip(kept, run.pieces(), strict=True):
        assert torch.equal(one[4], other[4]), "a refused step changes nothing"
    return {"told": told, "first": first, "last": [*kept, *run.averages()], "held out": run.held_out()}


def interrupted(world_size: int, case: str) -> tuple[list[Any], list[Any]]:
    """Steps of a run, and of one whose averages are looked at between the steps."""
    straight, looked = (Run(configuration(**CASES[case]), world_size) for _ in range(2))
    told: tuple[list[Any], list[Any]] = ([], [])
    for step in (1, 2):
        told[0].append(straight.step(step))
        told[1].append(looked.step(step))
        looked.held_out()
        if case == "text":
            write(looked)
    return told


def write(run: Run) -> list[bytes]:
    """Text of the averaged weights, for which parts of the network are called by themselves."""
    from trainer.data.text.tokens import ByteTokenizer
    from trainer.sampling.text import continue_texts

    with run.average.in_place():
        return continue_texts(run.engine.module, [b"def", b"a"], 4, tokenizer=ByteTokenizer(), temperature=0.0, seed=0)


def moved(world_size: int) -> tuple[list[Any], list[Any], list[bytes]]:
    """A run under ZeRO 1, and its continuation under FSDP2 from the pieces of its state."""
    straight, other = (Run(configuration(**CASES[case]), world_size) for case in ("ZeRO 1", "fp32"))
    for step in (1, 2):
        straight.step(step)
    for (name, kind, _, _, values), piece in zip(straight.pieces(), other.engine.state(), strict=True):
        assert (name, kind) == (piece.name, piece.kind)
        piece.tensor.copy_(values)
    other.engine.state_loaded(straight.engine.updates)
    text = write(Run(configuration(**CASES["text"]), world_size))
    return [straight.step(step) for step in (3, 4)], [other.step(step) for step in (3, 4)], text


def run_cases(_rank: int, world_size: int) -> dict[str, Any]:
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel()
    found: dict[str, Any] = {name: trajectory(configuration(**case), world_size) for name, case in CASES.items()}
    found["interrupted"] = {name: interrupted(world_size, name) for name in ("no clipping, kept", "text")}
    if world_size == 1:
        found["moved"] = moved(world_size)
    else:
        found["text written"] = write(Run(configuration(**CASES["text"]), world_size))
    return found


@pytest.fixture(scope="module")
def ranks() -> Callable[[int], list[dict[str, Any]]]:
    """Every case on a number of ranks, trained when it is first asked for."""

    @cache
    def trained(world_size: int) -> list[dict[str, Any]]:
        return run_ranks(run_cases, world_size)

    return trained


def assembled(found: list[dict[str, Any]], case: str, which: str) -> dict[tuple[str, str], torch.Tensor]:
    """Whole tensors from the pieces of all ranks, which must cover each element once."""
    whole: dict[tuple[str, str], torch.Tensor] = {}
    times: dict[tuple[str, str], torch.Tensor] = {}
    for rank in found:
        for name, kind, shape, offset, values in rank[case][which]:
            place = tuple(slice(first, first + size) for first, size in zip(offset, values.shape, strict=True))
            whole.setdefault((name, kind), torch.full(shape, torch.nan))[place] = values
            times.setdefault((name, kind), torch.zeros(shape))[place] += 1
    assert all((count == 1).all() for count in times.values())
    return whole


@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", [name for name in CASES if name != "ZeRO 1"])
def test_several_ranks_train_as_one(ranks: Callable[[int], list[dict[str, Any]]], world_size: int, case: str) -> None:
    tolerance = 2e-2 if case == "bf16" else 1e-4
    expected = ranks(1)[0][case]
    if CASES[case]["clip_norm"] is not None:
        assert min(norm for _, norm in expected["told"]) > CASES[case]["clip_norm"] / 2
    for rank in ranks(world_size):
        np.testing.assert_allclose(rank[case]["told"], expected["told"], rtol=tolerance)
        assert rank[case]["held out"] == pytest.approx(expected["held out"], rel=tolerance)
    one, several = (assembled(ranks(size), case, "first") for size in (1, world_size))
    assert one.keys() == several.keys()
    assert all(torch.equal(one[key], several[key]) for key in one)
    one, several = (assembled(ranks(size), case, "last") for size in (1, world_size))
    for name, kind in one:
        if case != "bf16":
            torch.testing.assert_close(several[name, kind], one[name, kind], rtol=1e-2, atol=1e-4, msg=name)


def test_it_takes_the_steps_of_zero(ranks: Callable[[int], list[dict[str, Any]]]) -> None:
    for case, tolerance in (("fp32", 1e-5), ("computed twice", 1e-5), ("bf16", 2e-2)):
        np.testing.assert_allclose(ranks(1)[0][case]["told"], ranks(1)[0]["ZeRO 1"]["told"], rtol=tolerance)
    assert ranks(2)[0]["fp32"]["told"] == ranks(2)[0]["computed twice"]["told"]


@pytest.mark.parametrize("world_size", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_looking_at_the_averages_leaves_no_trace(ranks: Callable[[int], list[dict[str, Any]]], world_size: int) -> None:
    for straight, looked in ranks(world_size)[0]["interrupted"].values():
        assert straight == looked


def test_a_run_goes_on_under_another_engine(ranks: Callable[[int], list[dict[str, Any]]]) -> None:
    straight, other, text = ranks(1)[0]["moved"]
    np.testing.assert_allclose(other, straight, rtol=1e-5)
    assert ranks(2)[0]["text written"] == text
