"""The memory that is told before a run starts is the memory that its ranks are measured to hold."""

from typing import Any

import pytest

from tests.ranks import run_ranks
from tests.trainer.experiment.forecast.cases import document, legal
from tests.trainer.experiment.forecast.measured import Measured, measure
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.experiment.forecast.memory import engine_memory
from trainer.experiment.forecast.passes import record
from trainer.experiment.forecast.peak import StepMemory, step_memory

TOLERANCE = 0.03
QUICK: dict[str, dict[str, Any]] = {"ZeRO 3": document("mlp", "zero 3", "fp32")}
FEW: dict[str, dict[str, Any]] = {
    "ZeRO 1": document("mlp", "zero 1", "fp32"),
    "ZeRO 1, bf16, accumulation": document("dit", "zero 1", "bf16", micro_batch=4),
    "FSDP, bf16, recomputed": document("dit", "fsdp", "bf16", recomputes=True),
    "mixture, ZeRO 2": document("mixture home", "zero 2", "fp32", expert=2),
}


def _measured(rank: int, world_size: int, cases: dict[str, dict[str, Any]]) -> dict[str, Measured]:
    return {name: measure(rank, world_size, RunConfig.model_validate(case)) for name, case in cases.items()}


def told(case: dict[str, Any], ranks: int) -> StepMemory:
    """What the formula says of a case, with the copy that gloo makes."""
    config = RunConfig.model_validate(case)
    layout = plan_layout(config, ranks)
    recording = record(config, layout, layout.micro_batch)
    return step_memory(recording, engine_memory(config, layout, recording, copies_input=True), layout.accumulation)


def check(cases: dict[str, dict[str, Any]], ranks: int) -> None:
    """Compares the fullest rank of each case, in all and by what it holds between steps."""
    found = run_ranks(_measured, ranks, cases)
    for name, case in cases.items():
        fullest = max((of_rank[name] for of_rank in found), key=lambda one: one.peak)
        expected = told(case, ranks)
        assert fullest.mem_tracker == fullest.peak, name
        assert expected.peak.total == pytest.approx(fullest.peak, rel=TOLERANCE), name
        held, state = expected.held, fullest.state
        assert held["average"] == pytest.approx(state["average"], rel=TOLERANCE), name
        assert held["parameters"] == pytest.approx(state["parameters"], rel=TOLERANCE), name
        assert held["optimizer"] == pytest.approx(state["optimizer"] + state["master"], rel=TOLERANCE), name


@pytest.mark.slow
@pytest.mark.parametrize("cases", [QUICK, FEW], ids=["quick", "few"])
def test_peak_and_state_are_told_before_the_start(cases: dict[str, dict[str, Any]]) -> None:
    check(cases, 2)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_legal_combination(ranks: int) -> None:
    check(dict(legal(ranks)), ranks)
