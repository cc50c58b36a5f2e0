"""What a sample costs: as one of many, and by the calls of a network without values."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.each import each
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.config.sample import FlowSample
from trainer.distributed.groups import Launch, joined
from trainer.evaluation.evaluation import Measured, evaluate, sample_multiply_adds
from trainer.evaluation.measurement import costs_of
from trainer.model.build import build_model
from trainer.model.flops import forward_flops
from trainer.observe.measurement import MeasurementSpec
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import FlowParts

NUM = 3
DIT = {"data": {"kind": "digits"}, "model": {"hidden": 16, "num_layers": 2, "num_heads": 2}}
POINTS = {"data": {"kind": "toy", "held_out": 20}, "model": {"kind": "mlp", "hidden": 16, "num_layers": 2}}
BLOCKWISE = {"kind": "blockwise", "segments": 2, "hidden": 16, "num_heads": 2, "trunk_layers": 2, "teacher_features": 6}
EULER, HEUN = {"kind": "euler", "steps": 3}, {"kind": "heun", "steps": 2}
TRANSITION = {"kind": "transition", "steps": 2, "head": EULER}
DRAWN = {"flow": {"objective": {"kind": "transition"}}}


def segmented(within: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "segmented", "segments": 2, "within": within}


CAUSAL = {"kind": "causal_transition", "hidden": 16, "num_layers": 2, "num_heads": 2, "patch_size": 4}
TOKENS = {"kind": "causal_transition", "head": HEUN}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "points": (POINTS, EULER),
    "points, two calls a step": (POINTS, HEUN),
    "points, steps of its own": (POINTS, {"kind": "dopri5", "rtol": 1e-2, "atol": 1e-2}),
    "images": (DIT, EULER),
    "images by experts": ({**DIT, "moe": {"num_experts": 4, "top_k": 2, "expert_hidden": 24}}, HEUN),
    "images told of maps": ({**DIT, "flow": {"context": {"kind": "semantic_map"}}}, EULER),
    "tokens after the last state": ({**DIT, "model": {**CAUSAL, "history": "last", "transitions": 3}}, TOKENS),
    "tokens after all states": ({**DIT, "model": {**CAUSAL, "history": "full", "transitions": 3}}, TOKENS),
    "segments without approximation": ({**DIT, "model": BLOCKWISE}, segmented(EULER)),
    "segments, the trunk once in each": ({**DIT, "model": {**BLOCKWISE, "residual_layers": 1}}, segmented(EULER)),
    "images by a head": ({**DIT, **DRAWN, "model": {**DIT["model"], "kind": "transition_dit"}}, TRANSITION),
    "points by a head": ({**POINTS, **DRAWN, "model": {"kind": "transition_mlp", "hidden": 16}}, TRANSITION),
    "images by the mean of a head": ({**DIT, **DRAWN, "model": {**DIT["model"], "kind": "transition_dit"}}, EULER),
    "points by the mean of a head": ({**POINTS, **DRAWN, "model": {"kind": "transition_mlp", "hidden": 16}}, HEUN),
    "segments, two calls a step": ({**DIT, "model": {**BLOCKWISE, "residual_layers": 1}}, segmented(HEUN)),
}
EACH_CALL_ALIKE = [case for case in CASES if case.startswith(("points", "images")) and "by a head" not in case]


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    with joined(Launch(0, 0, 1, 1)):
        yield


def flow_of(sections: dict[str, Any], drawn_by: dict[str, Any]) -> TrainedFlow:
    config = RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "optim": {"steps": 1, "global_batch": 4},
            "sample": {"sampler": drawn_by, "guidance": 1.0},
            **sections,
        }
    )
    torch.manual_seed(0)
    return TrainedFlow(config, FlowParts(config), build_model(config, Layout.single(config)).eval(), "step_00000000")


@each("case", CASES)
def test_a_sample_costs_what_torch_counts(case: str) -> None:
    flow = flow_of(*CASES[case])
    chosen, conditioning = flow.sample.sampler, flow.conditioning(NUM, seed=0)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        drawn = flow.follow(conditioning.condition, torch.arange(NUM), chosen, guidance=1.0, seed=0)
    multiply_adds = sample_multiply_adds(flow, flow.conditioning(1, seed=0), chosen, drawn.calls)
    assert multiply_adds is not None
    assert counted.get_total_flops() == 2 * NUM * multiply_adds
    if case in EACH_CALL_ALIKE:
        assert 2 * multiply_adds == drawn.calls["network"] * (forward_flops(flow.config) or 0)
    by_formula = chosen.calls()
    assert by_formula is None or drawn.calls == by_formula


def test_calls_of_a_head_have_a_column_where_there_are_any() -> None:
    plain = Measured("euler", 2, {"network": 2}, 1500, 0.1, {})
    by_head = Measured("transition", 2, {"network": 2, "head": 32}, None, 0.1, {})
    assert list(costs_of([plain])) == ["NFE", "multiply-adds"]
    columns = costs_of([plain, by_head])
    assert list(columns) == ["NFE", "head calls", "multiply-adds"]
    assert [written(plain) for written in columns.values()] == ["2", "0", "1.50 k"]
    assert [written(by_head) for written in columns.values()] == ["2", "32", ""]
    assert list(costs_of([by_head])) == ["NFE", "head calls"]


def test_evaluate_counts_without_guidance_at_every_number_of_calls() -> None:
    flow = flow_of({**DIT, "data": {"kind": "digits", "held_out": 20}}, EULER)
    sample = flow.sample
    assert isinstance(sample, FlowSample)
    guided = flow.config.model_copy(update={"sample": sample.model_copy(update={"guidance": 2.0})})
    found = evaluate(replace(flow, config=guided), MeasurementSpec((1, 4), num=20))
    assert [one.calls for one in found.results] == [{"network": 1}, {"network": 4}]
    one_call = (forward_flops(flow.config) or 0) // 2
    assert [one.multiply_adds for one in found.results] == [one_call, 4 * one_call]
