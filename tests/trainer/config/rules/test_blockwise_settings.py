"""What a run knows of a network whose blocks belong to segments of time, and what it refuses of it."""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.each import each
from tests.trainer.model.blockwise_networks import SIZES, stirred
from trainer.config.model import BlockwiseConfig
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.flow import Condition
from trainer.flow.question import WithProjection
from trainer.model.build import build_model, inherited_shapes, parameter_shapes
from trainer.model.flops import forward_flops


@each(
    "model",
    [
        {"kind": "blockwise", **SIZES},
        {"kind": "blockwise", **SIZES, "trunk_layers": 0, "segment_layers": 2},
        {"kind": "blockwise", **SIZES, "teacher_features": 6},
        {"kind": "blockwise_mlp", "segments": 3, "hidden": 8},
    ],
    ids=["trunk", "no trunk", "teacher", "points"],
)
def test_counted_arithmetic_is_that_of_the_products(model: dict[str, Any]) -> None:
    flow = {"flow": {"objective": ALIGNED}} if "teacher_features" in model else {}
    config = run(model, **flow)
    made = stirred(build_model(config, plan_layout(config, 1)))
    x, t = torch.randn(1, *config.state_shape), torch.tensor([0.5])
    asked = (WithProjection(),) if "teacher_features" in model else ()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        made(x, t, Condition(torch.zeros(1, dtype=torch.int64), segment=1), *asked)
    assert counted.get_total_flops() == forward_flops(config, *asked)


def run(model: dict[str, Any], **sections: Any) -> RunConfig:
    document = {
        "run": {"dir": "unused"},
        "model": model,
        "optim": {"steps": 1, "global_batch": 12},
        "sample": {"sampler": {"kind": "segmented", "segments": model.get("segments", 6)}},
        **sections,
    }
    return RunConfig.model_validate(document)


def test_new_parts_of_a_network_are_named() -> None:
    config = run({"kind": "blockwise", **SIZES, "residual_layers": 1, "init_new": ["residual"]})
    missing = parameter_shapes(config).keys() - inherited_shapes(config).keys()
    assert {name.partition(".")[0] for name in missing} == {"residual", "residual_output"}
    plain = run({"kind": "blockwise", **SIZES, "residual_layers": 1})
    assert inherited_shapes(plain) == parameter_shapes(plain)


ALIGNED = {"kind": "aligned", "teacher": "teacher.safetensors"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "too small a batch": ({"optim": {"steps": 1, "global_batch": 2}}, "model.segments: 3 segments exceed the micro"),
    "other segments of time": ({"flow": {"time": {"kind": "stratified", "segments": 4}}}, "unevenly; use 3"),
    "times that miss a segment": ({"flow": {"time": {"kind": "grid", "steps": 2}}}, "flow.time.steps: 2"),
    "steps across edges": ({"sample": {"sampler": {"kind": "euler", "steps": 8}}}, "euler steps across the edges"),
    "edges elsewhere": ({"sample": {"sampler": {"kind": "segmented", "segments": 4}}}, "segments 4 steps across"),
    "a teacher without a projection": ({"flow": {"objective": ALIGNED}}, "model.teacher_features: null"),
    "residuals without a residual network": (
        {"flow": {"objective": {"kind": "feature_residual"}}},
        "feature_residual trains the residual network of a trunk that is finished",
    ),
    "shared matrices": ({"parallel": {"tensor": 2}}, "parallel.tensor: 2"),
}


@each("case", REFUSED)
def test_refusals(case: str) -> None:
    sections, message = REFUSED[case]
    config = run({"kind": "blockwise", **SIZES}, **sections)
    with pytest.raises(ValueError, match=message) as refused:
        plan_layout(config, config.parallel.tensor)
    assert "; use " in str(refused.value)


@each(
    ("model", "sections", "message"),
    [
        ({"residual_layers": 1}, {}, "model.residual_layers: 1 are trained by"),
        ({"teacher_features": 6}, {}, "model.teacher_features: 6 belong to a projection"),
        ({"teacher_features": 6}, {"flow": {"objective": ALIGNED, "data_scale": 2}}, "aligned shows a teacher"),
        (
            {"residual_layers": 1, "init_from": "runs/main"},
            {
                "flow": {"objective": {"kind": "feature_residual"}},
                "optim": {"steps": 1, "global_batch": 12, "weight_decay": 0.1},
            },
            "optim.weight_decay: 0.1",
        ),
        (
            {"residual_layers": 1, "init_from": "runs/main", "dropout": 0.1},
            {"flow": {"objective": {"kind": "feature_residual"}}},
            "model.dropout: 0.1",
        ),
    ],
)
def test_parts_that_nothing_trains(model: dict[str, Any], sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_layout(run({"kind": "blockwise", **SIZES, **model}, **sections), 1)


def test_objectives_of_features_are_for_trunks() -> None:
    config = RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"hidden": 16},
            "optim": {"steps": 1, "global_batch": 12},
            "flow": {"objective": ALIGNED},
        }
    )
    with pytest.raises(ValueError, match="which a dit model lacks"):
        plan_layout(config, 1)


def test_settings_that_no_network_has() -> None:
    for settings, message in (
        ({"trunk_layers": 0, "residual_layers": 1}, "residual_layers: 1 needs the features of a trunk"),
        ({"trunk_layers": 0, "teacher_features": 8}, "teacher_features: 8 needs the features"),
        ({"hidden": 12}, "hidden: 12"),
    ):
        with pytest.raises(ValueError, match=message):
            BlockwiseConfig(**{**SIZES, **settings})
    with pytest.raises(ValueError, match="moe: the experts of a blockwise model"):
        run({"kind": "blockwise", **SIZES}, moe={"num_experts": 4, "expert_hidden": 8})
