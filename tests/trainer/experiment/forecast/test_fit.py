"""What is proposed fits, is the cheapest that does, and says so where nothing can."""

from itertools import product

import pytest

from tests.trainer.experiment.forecast.cases import document
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.experiment.forecast.fit import Settings, fit
from trainer.experiment.forecast.memory import Estimator

RANKS = 4


def run() -> RunConfig:
    sections = document("mlp", "zero 1", "bf16")
    return RunConfig.model_validate({**sections, "model": {**sections["model"], "num_layers": 2}})


def memory_of(settings: Settings, config: RunConfig, estimator: Estimator) -> int | None:
    """Peak under settings; None: they are not legal."""
    try:
        changed = settings.of(config)
        layout = plan_layout(changed, RANKS)
    except ValueError:
        return None
    return estimator.memory(changed, layout).peak.total


def test_it_fits_and_no_setting_that_is_surely_cheaper_does() -> None:
    config, estimator = run(), Estimator()
    layout = plan_layout(config, RANKS)
    now = estimator.memory(config, layout).peak.total
    limit = now * 9 // 10
    found = fit(config, layout, limit)
    assert found.memory.peak.total <= limit
    engines: list[tuple[str, int | None]] = [("deepspeed", 1), ("deepspeed", 2), ("deepspeed", 3), ("fsdp", None)]
    for (engine, stage), recomputes, micro_batch in product(engines, (False, True), (1, 2, 4, 8)):
        other = Settings(engine, stage, recomputes, micro_batch, 1, 1)
        same_engine = (engine, stage) == (found.settings.engine, found.settings.zero_stage)
        costs_no_more = (
            recomputes <= found.settings.activation_checkpointing and micro_batch > found.settings.micro_batch
        )
        if same_engine and costs_no_more:
            peak = memory_of(other, config, estimator)
            assert peak is None or peak > limit, other


def test_where_nothing_fits_the_least_peak_and_its_largest_part_are_named() -> None:
    config = run()
    with pytest.raises(ValueError, match=r"^--fit: 1.00 MB is less than .* the least peak is .* are \w+; use more"):
        fit(config, plan_layout(config, RANKS), 1_000_000)


def test_a_pass_put_together_from_smaller_ones_is_the_pass_itself() -> None:
    config = RunConfig.model_validate(document("dit", "zero 2", "fp32", recomputes=True))
    layout, estimator = plan_layout(config, RANKS), Estimator()
    assert estimator.memory(config, layout, scaled=True) == Estimator().memory(config, layout)
