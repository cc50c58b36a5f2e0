"""What holds for every network of the list, and for one that is not in it."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from moe.seeds import derive_seed
from netsim.foundation.settings import kind_of, sections_in
from tests.each import each
from trainer.config.model import AnyNetworkConfig, CausalTransitionConfig, NetworkConfig, SegmentNetworkConfig
from trainer.config.model.encoded import EncodedNetworkConfig
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.experiment.forecast.spec import trace_spec
from trainer.experiment.forecast.trace import formula
from trainer.flow import Condition
from trainer.flow.question import Question
from trainer.model.build import NETWORKS, build_model, meta_network, parameter_shapes
from trainer.model.flops import forward_flops, questions_in_training, training_flops
from trainer.model.network import NetworkSpec
from trainer.observe.speed import Speed

KINDS = [kind_of(settings) for settings in sections_in(AnyNetworkConfig)]
IN_SEGMENTS = {"sampler": {"kind": "segmented", "segments": 6, "within": {"kind": "euler", "steps": 1}}}


def configuration(model: object, **sections: Any) -> RunConfig:
    document = {"run": {"dir": "runs/test"}, "model": model, "optim": {"steps": 1, "global_batch": 8}, **sections}
    return RunConfig.model_validate(document)


def small(kind: str) -> RunConfig:
    sections: dict[str, Any] = {"sample": IN_SEGMENTS} if kind.startswith("blockwise") else {}
    if kind == "causal_transition":
        sections = {"sample": {"sampler": {"kind": kind}}, "flow": {"objective": {"draws": 1}}}
    if kind == "contrastive":
        sections = {"task": {"positives": {"kind": "views"}}}
    if kind.startswith("encoded"):
        captions = {"path": "unused", "width": 6, "digest": "0"}
        sections = {"flow": {"coupling": {"kind": "encoded"}, "captions": captions}}
    if kind == "equivariant":
        data = {"kind": "reactions", "held_out": 1, "atoms": 5, "species": [1, 6]}
        sections = {"data": data, "flow": {"coupling": {"kind": "ends"}}}
    if kind == "descriptor_mlp":
        sections = {"data": {"kind": "surfaces", "points": 42, "num_pairs": 1}}
    more: dict[str, Any] = {}
    if kind == "prototypes":
        more, sections = {"clusters": 3}, {"task": {"labels": {"neighbours": 3}}}
    return configuration({"kind": kind, "hidden": 16, **more}, **sections)


def asked_in_training(config: RunConfig) -> bool:
    """Whether the network does more in training than for a velocity alone, or gives none."""
    return isinstance(config.model, CausalTransitionConfig | EncodedNetworkConfig)


def with_values(question: Question) -> Question:
    values = {field.name: getattr(question, field.name) for field in fields(cast(Any, question))}
    zeros = {name: torch.zeros(one.shape) for name, one in values.items() if isinstance(one, Tensor)}
    return replace(cast(Any, question), **zeros)


def arguments(config: RunConfig) -> list[Any]:
    """What the settings say that the network is called with, for one example."""
    given: list[Any] = [
        torch.zeros(1, *one.shape, dtype=torch.int64 if one.integer else torch.float32)
        for one in config.model.inputs(config.state_shape)
    ]
    if config.flow is None:
        return given
    asked = [with_values(one) for one in questions_in_training(config)] if asked_in_training(config) else []
    caption = torch.zeros(1, config.caption_width) if config.caption_width else None
    context = torch.zeros(1, *config.context_shape) if config.context_shape else None
    return [*given, Condition(segment=0, caption=caption, context=context), *asked]


def test_each_class_of_settings_has_a_builder() -> None:
    assert set(NETWORKS) == set(sections_in(AnyNetworkConfig))
    assert len(set(KINDS)) == len(NETWORKS)


@each("kind", KINDS)
def test_settings_tell_what_the_network_is(kind: str) -> None:
    config = small(kind)
    network = build_model(config, plan_layout(config, 1))
    assert len(network.blocks) == config.model.num_layers
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    assert list(shapes.items()) == list(parameter_shapes(config).items())
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(*arguments(config))
    questions = questions_in_training(config) if asked_in_training(config) else ()
    assert counter.get_total_flops() == forward_flops(config, *questions)
    if isinstance(config.model, SegmentNetworkConfig):
        by_segment = [network.blocks[place] for place in config.model.segment_blocks]
        assert all(next(block.parameters()).shape[0] == config.model.segments for block in by_segment)


@each("kind", KINDS)
def test_settings_tell_what_ranks_can_share(kind: str) -> None:
    config = small(kind)
    if config.model.shared_widths(mixture=False):
        halves = meta_network(config, tensor_parallel=2)
        whole = meta_network(config)
        assert sum(map(torch.numel, halves.parameters())) < sum(map(torch.numel, whole.parameters()))
    else:
        with pytest.raises(ValueError, match=r"parallel\.tensor: 2 ranks cannot share the matrices"):
            plan_layout(config.model_copy(update={"parallel": config.parallel.model_copy(update={"tensor": 2})}), 2)


class Shift(nn.Module):
    """A network of one's own: a learned shift of a vector, which derives from no class of the trainer."""

    def __init__(self, spec: NetworkSpec["ShiftConfig"]) -> None:
        super().__init__()
        draw = torch.randn(spec.config.num_layers, spec.num_values, generator=spec.generator)
        self.blocks = nn.ModuleList(nn.ParameterList([row]) for row in draw)
        self.null_label = spec.num_classes

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:  # noqa: ARG002
        for shift in self.parameters():
            x_t = x_t + shift
        return x_t


class ShiftConfig(NetworkConfig):
    kind: Literal["shift"] = "shift"
    num_layers: int = 2
    label_dropout: float = 0.0
    init_from: Path | None = None

    network: ClassVar[Any] = Shift
    data_kinds = ("toy",)
    sample_kinds = ("points",)

    @property
    def hidden(self) -> int:
        return 2


def test_a_network_of_ones_own_goes_all_the_way() -> None:
    config = configuration(ShiftConfig(num_layers=3), sample={"guidance": 1.0})
    assert (config.data.kind, config.sample.kind) == ("toy", "points")
    network = build_model(config, plan_layout(config, 1))
    assert isinstance(network, Shift)
    drawn = torch.randn(3, 2, generator=torch.Generator().manual_seed(derive_seed(config.run.seed, "model")))
    assert torch.equal(torch.cat([*network.parameters()]), drawn.flatten())
    assert parameter_shapes(config) == {f"blocks.{layer}.0": (2,) for layer in range(3)}
    assert "kind: shift\n  num_layers: 3\n" in config.to_yaml()
    for stage in (1, 3):
        engine = config.engine.model_copy(update={"zero_stage": stage})
        _, records = formula(
            trace_spec(config.model_copy(update={"engine": engine}), plan_layout(config, 2), ranks_per_node=2)
        )
        assert sum(1 for _ in records) > 0


def test_without_products_no_speed_in_operations_is_told() -> None:
    config = configuration(ShiftConfig())
    assert training_flops(config) is None
    assert set(Speed(config, None, world_size=1).figures(0.5)) == {"time.step_s", "time.samples_per_s"}


def test_a_network_of_ones_own_is_refused_what_it_does_not_offer() -> None:
    moe = {"num_experts": 2, "top_k": 1, "expert_hidden": 4}
    with pytest.raises(
        ValidationError, match=r"moe: the network makes its feed-forward layers itself; remove the section"
    ):
        configuration(ShiftConfig(), moe=moe)
    with pytest.raises(ValidationError, match=r"data\.kind: digits is not for a shift model; use toy"):
        configuration(ShiftConfig(), data={"kind": "digits"})
    tensor = configuration(ShiftConfig(), parallel={"tensor": 2})
    with pytest.raises(ValueError, match=r"parallel\.tensor: 2 ranks cannot share the matrices of this network; use 1"):
        plan_layout(tensor, 2)


class Incomplete(NetworkConfig):
    kind: Literal["incomplete"] = "incomplete"
    num_layers: int = 1
    network: ClassVar[Any] = Shift


class Unbuildable(ShiftConfig):
    network: ClassVar[Any] = None


class Blockless(ShiftConfig):
    network: ClassVar[Any] = lambda spec: nn.Linear(spec.num_values, spec.num_values)


@pytest.mark.parametrize(
    ("settings", "lacking"), [(Incomplete(), "hidden, init_from, label_dropout"), (Unbuildable(), "network")]
)
def test_settings_that_lack_something_are_refused(settings: NetworkConfig, lacking: str) -> None:
    with pytest.raises(ValidationError, match=f"{type(settings).__name__}: settings of a network lack {lacking}; see"):
        configuration(settings)


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="model: shift builds a Linear, which is not a torch module with `blocks`"):
        parameter_shapes(configuration(Blockless()))
