"""Learning rates by the names of parameters: the steps of AdamW written out, under every engine."""

from typing import Any

import pytest
import torch

from tests.ranks import run_ranks
from tests.trainer.distributed.engine.test_fsdp import Run, assembled, configuration
from trainer.config.run import RunConfig
from trainer.config.sections import OptimConfig, in_order
from trainer.model.build import check_rates

STEPS, DECAY, CLIP = 4, 0.1, 0.5
RATES = {"blocks": 0.5, "blocks.1.qkv": 4.0, "unembed_patches.bias": 10.0, "embed": 4.0}
"""The last but one is the rate of a single number, of which some ranks have nothing."""
ENGINES: dict[str, dict[str, Any]] = {
    **{f"ZeRO {stage}": {"engine": "deepspeed", "zero_stage": stage} for stage in range(4)},
    "FSDP2": {},
}


def rated(engine: str, rates: dict[str, float]) -> RunConfig:
    config = configuration(clip_norm=CLIP, **ENGINES[engine])
    return config.model_copy(update={"optim": config.optim.model_copy(update={"rates": rates, "weight_decay": DECAY})})


def trained(engine: str, rates: dict[str, float], world_size: int, lr: float = 1e-2) -> dict[str, Any]:
    run = Run(rated(engine, rates), world_size)
    own: Any = run.engine
    step = own.step
    own.step = lambda _, objection: step(lr, objection)
    norms = [run.step(number)[1] for number in range(1, STEPS + 1)]
    return {"last": run.pieces(), "norms": norms}


def moved(world_size: int) -> tuple[list[Any], list[Any]]:
    """A run under ZeRO 1, and its continuation under ZeRO 3 from the pieces of its state on one rank."""
    straight, other = (Run(rated(engine, RATES), world_size) for engine in ("ZeRO 1", "ZeRO 3"))
    for step in (1, 2):
        straight.step(step)
    known = {(name, kind): values for name, kind, _, _, values in straight.pieces()}
    for piece in other.engine.state():
        piece.tensor.copy_(known[piece.name, piece.kind])
    other.engine.state_loaded(straight.engine.updates)
    return [straight.step(step) for step in (3, 4)], [other.step(step) for step in (3, 4)]


def run_cases(_rank: int, world_size: int) -> dict[str, Any]:
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel()
    if world_size == 1:
        return {"moved": moved(world_size)}
    everything = {"embed": 2.0, "blocks": 2.0, "final": 2.0, "unembed": 2.0}
    found = {engine: trained(engine, RATES, world_size) for engine in ENGINES}
    found |= {f"{engine}, all twice": trained(engine, everything, world_size) for engine in ENGINES}
    found |= {f"{engine}, lr twice": trained(engine, {}, world_size, lr=2e-2) for engine in ENGINES}
    return found


def written_out(rates: dict[str, float]) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2, in one process."""
    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.engine.protocol import StepOutcome
    from trainer.model.build import build_model

    config = rated("FSDP2", {})
    layout = plan_layout(config, 1)
    model = build_model(config, layout)
    optim, norms = config.optim, []
    moments = {name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in model.named_parameters()}
    rate_of = {
        name: next((rates[key] for key in sorted(rates, key=len, reverse=True) if name.startswith(key)), 1.0)
        for name in moments
    }

    class Plain:
        """One process that keeps everything."""

        def __init__(self) -> None:
            self.model = model

        def backward(self, loss: torch.Tensor) -> None:
            (loss / layout.accumulation).backward()

        def step(self, lr: float, _objection: Any) -> StepOutcome:
            gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            norm = float(torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt())
            count = len(norms) + 1
            for name, parameter in model.named_parameters():
                gradient = gradients[name] * min(1.0, CLIP / norm)
                first, second = moments[name]
                first.mul_(optim.betas[0]).add_((1 - optim.betas[0]) * gradient)
                second.mul_(optim.betas[1]).add_((1 - optim.betas[1]) * gradient.square())
                own = lr * rate_of[name]
                with torch.no_grad():
                    parameter -= own * DECAY * parameter
                    unbiased = (second / (1 - optim.betas[1] ** count)).sqrt() + 1e-8
                    parameter -= own * first / (1 - optim.betas[0] ** count) / unbiased
                parameter.grad = None
            norms.append(norm)
            return StepOutcome(norm, None)

    run: Any = Run.__new__(Run)
    run.config, run.world_size, run.layout = config, 1, layout
    run.engine = engine = Plain()
    for step in range(1, STEPS + 1):
        for micro in range(layout.accumulation):
            torch.manual_seed(1000 * step + micro)
            engine.backward(run.loss(model, torch.Generator().manual_seed(1000 * step + micro)))
        engine.step(1e-2, None)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}, norms


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return run_ranks(run_cases, 2)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_each_parameter_takes_steps_of_its_own_rate(ranks: list[dict[str, Any]], engine: str) -> None:
    expected, norms = written_out(RATES)
    for found in ranks:
        assert found[engine]["norms"] == pytest.approx(norms, rel=1e-4)
    weights = {
        name: value
        for (name, kind), value in assembled(with_holders(ranks, engine), engine, "last").items()
        if kind == "weight"
    }
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=2e-5)
    unrated, _ = written_out({})
    assert (expected["unembed_patches.bias"] - unrated["unembed_patches.bias"]).abs().max() > 1e-2


def with_holders(ranks: list[dict[str, Any]], engine: str) -> list[dict[str, Any]]:
    """Without ZeRO every rank has everything, and one is enough."""
    return ranks[:1] if engine == "ZeRO 0" else ranks


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_one_factor_for_all_is_another_learning_rate_bit_by_bit(ranks: list[dict[str, Any]], engine: str) -> None:
    for found in ranks:
        one, other = found[f"{engine}, all twice"], found[f"{engine}, lr twice"]
        assert one["norms"] == other["norms"]
        for piece, same in zip(one["last"], other["last"], strict=True):
            assert piece[:4] == same[:4]
            assert torch.equal(piece[4], same[4])


@pytest.mark.slow
def test_a_run_with_rates_goes_on_under_another_engine() -> None:
    straight, other = run_ranks(run_cases, 1)[0]["moved"]
    for one, same in zip(straight, other, strict=True):
        assert same == pytest.approx(one, rel=1e-4)


def test_of_several_keys_that_fit_a_name_the_longest_counts() -> None:
    optim = OptimConfig(steps=1, global_batch=1, rates={"blocks": 2, "experts": 3, "blocks.1.qkv": 5, "w": 7})
    for name, rate in {
        "blocks.0.qkv.bias": 2,
        "blocks.1.qkv.weight": 5,
        "blocks.1.feed_forward.experts.17.linear_fc1.weight": 3,
        "head.weight": 7,
        "shown.bias": 1,
    }.items():
        assert optim.rate_of(name) == rate
    assert in_order([3.0, 1.0, 0.5, 3.0]) == [1.0, 0.5, 3.0]


def test_a_key_that_fits_no_parameter_is_refused_with_what_is_near() -> None:
    check_rates(rated("ZeRO 1", RATES))
    with pytest.raises(
        ValueError, match=r"^optim\.rates\.qvk: no part of the name of a parameter begins so; use qkv, or"
    ):
        check_rates(rated("ZeRO 1", {"blocks": 2.0, "qvk": 2.0}))
    with pytest.raises(ValueError, match=r"^optim\.rates\.routing: no part .* use embed_patches, weight, bias, "):
        check_rates(rated("ZeRO 1", {"routing": 2.0}))
    for wrong in ({"blocks": 0}, {"blocks": -1.0}, {"": 1.0}, {".blocks": 1.0}, {"blocks": "fast"}):
        with pytest.raises(ValueError, match="rates"):
            OptimConfig.model_validate({"steps": 1, "global_batch": 1, "rates": wrong})


def test_runs_without_rates_keep_what_identifies_them() -> None:
    plain, empty = rated("ZeRO 1", {}), rated("ZeRO 1", {"blocks": 2.0})
    assert "rates" not in plain.to_yaml()
    assert RunConfig.model_validate(plain.model_dump(mode="json")).digest == plain.digest
    assert empty.digest != plain.digest
    assert RunConfig.model_validate(empty.model_dump(mode="json")) == empty
