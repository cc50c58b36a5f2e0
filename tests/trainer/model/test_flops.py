"""The operations of a network without values, against those of the network itself and a closed form."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.each import each
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.distributed.groups import Launch, joined
from trainer.flow import Condition
from trainer.model.build import build_model
from trainer.model.flops import forward_flops, training_flops
from trainer.observe.speed import Speed

BATCH = 3
MODELS = {
    "dit": {"model": {"hidden": 32, "num_layers": 2, "num_heads": 2, "feed_forward_hidden": 48}},
    "dit of large images": {"model": {"hidden": 16, "num_layers": 1, "patch_size": 4}, "data": {"size": 32}},
    "dit told of maps": {"model": {"hidden": 16, "num_layers": 1}, "flow": {"context": {"kind": "semantic_map"}}},
    "dit that fills holes": {"model": {"hidden": 16, "num_layers": 1}, "flow": {"context": {"kind": "inpainting"}}},
    "gpt": {"model": {"kind": "gpt", "hidden": 24, "num_layers": 3, "num_heads": 2}, "data": {"context": 17}},
    "gpt of shared keys": {
        "model": {"kind": "gpt", "hidden": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 1},
        "data": {"context": 16},
    },
    "gpt as Llama": {
        "model": {"kind": "gpt", "hidden": 32, "num_layers": 2, "feed_forward": "swiglu", "bias": True, "tied": True},
        "data": {"context": 16},
    },
    "dit as that of diffusers": {
        "model": {
            "hidden": 32,
            "num_layers": 3,
            "waves": "diffusers",
            "embeddings": "each_block",
            "predicts_variance": True,
        }
    },
    "mlp": {
        "model": {"kind": "mlp", "hidden": 64, "num_layers": 3},
        "data": {"name": "eight_gaussians", "classes": True},
    },
}
MIXTURES = {
    "dense": None,
    "top 1": {"num_experts": 4, "top_k": 1, "expert_hidden": 24},
    "top 2 and a shared expert": {"num_experts": 4, "top_k": 2, "expert_hidden": 24, "shared_expert_hidden": 40},
}


def configuration(**sections: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"run": {"dir": "runs/test"}, "model": {}, "optim": {"steps": 1, "global_batch": BATCH}, **sections}
    )


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    with joined(Launch(0, 0, 1, 1)):
        yield


def inputs(config: RunConfig) -> tuple[Any, ...]:
    if config.model.kind == "gpt":
        return (torch.randint(256, (BATCH, config.data.shape[0] - 1)),)
    told = None if config.context_shape is None else torch.randn(BATCH, *config.context_shape)
    condition = Condition(label=torch.randint(config.data.num_classes, (BATCH,)), context=told)
    return torch.randn(BATCH, *config.data.shape), torch.rand(BATCH), condition


def on_meta(config: RunConfig) -> int:
    operations = forward_flops(config)
    assert operations is not None
    return operations


def counted(call: Callable[[], object]) -> int:
    """Operations in matrix products, attention among them, since this backend makes it of them."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.usefixtures("alone")
@each(
    ("model", "mixture"),
    [
        (model, mixture)
        for model in MODELS
        for mixture in MIXTURES
        if mixture == "dense" or model in ("dit", "gpt", "mlp")
    ],
)
def test_without_values_it_computes_as_much_as_the_network(model: str, mixture: str) -> None:
    config = configuration(**MODELS[model], moe=MIXTURES[mixture])
    network = build_model(config, plan_layout(config, 1))
    arguments = inputs(config)
    forward = counted(lambda: network(*arguments))
    assert forward == BATCH * on_meta(config)
    assert training_flops(config) == 3 * forward / BATCH


@pytest.mark.usefixtures("alone")
@each("model", MODELS)
def test_a_step_is_three_forward_passes_but_for_the_gradient_of_the_input(model: str) -> None:
    config = configuration(**MODELS[model])
    network = build_model(config, plan_layout(config, 1))
    arguments = inputs(config)
    step = counted(lambda: network(*arguments).sum().backward())
    expected = BATCH * 3 * on_meta(config)
    assert training_flops(config) == expected / BATCH
    assert 0.96 * expected <= step <= expected


def test_a_text_model_costs_what_the_closed_form_says() -> None:
    """Six operations for each weight of a matrix and token, and twelve L H Q T^2: appendix B of the paper."""
    layers, width, tokens, vocabulary = 3, 24, 17, 256
    config = configuration(
        model={"kind": "gpt", "hidden": width, "num_layers": layers, "num_heads": 2}, data={"context": tokens}
    )
    weights = layers * 12 * width**2 + width * vocabulary
    assert training_flops(config) == 6 * weights * tokens + 12 * layers * width * tokens**2


def test_speed_is_over_all_ranks_and_utilisation_over_their_peak() -> None:
    config = configuration(observe={"peak_flops": 1e9})
    figures = Speed(config, training_flops(config), world_size=4).figures(0.5)
    assert figures["time.step_s"] == 0.5
    assert figures["time.samples_per_s"] == BATCH / 0.5
    assert figures["time.model_flops_per_s"] == BATCH * 3 * on_meta(config) / 0.5
    assert figures["time.mfu"] == pytest.approx(figures["time.model_flops_per_s"] / 4e9)
    assert all(math.isfinite(value) for value in figures.values())


def test_without_a_peak_there_is_no_utilisation() -> None:
    assert "time.mfu" not in Speed(configuration(), 1, world_size=1).figures(0.5)


@each("peak", [0, -1, math.inf, math.nan])
def test_a_peak_that_no_device_has_is_refused(peak: float) -> None:
    with pytest.raises(ValidationError, match="peak_flops"):
        configuration(observe={"peak_flops": peak})
