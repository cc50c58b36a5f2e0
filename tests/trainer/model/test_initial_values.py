"""What networks begin with: the distribution of each parameter, and that it depends on seed and name alone."""

import math
import re
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tests.each import each
from tests.trainer.model.test_networks import KINDS, configuration, small
from trainer.config.model import NetworkConfig
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.model.build import bare_network, build_model, parameter_shapes
from trainer.model.network import Initial, NetworkSpec, Normal
from trainer.model.parallel.state import held_pieces
from trainer.model.values import DrawnValues, fill

MATRIX, CONVOLUTION, TABLE, SEGMENT = "matrix", "convolution", "table", "segment"
STEERED = [(r"bias$", 0.0), (r"modulation\.weight$", 0.0), (r"^embed_label", TABLE), (r"", MATRIX)]
SAID: dict[str, list[tuple[str, float | str]]] = {
    "dit": [(r"^unembed_patches", 0.0), *STEERED],
    "mlp": [(r"^unembed_values", 0.0), *STEERED],
    "blockwise": [(r"^(unembed_patches|residual_output)", 0.0), *STEERED],
    "encoded_dit": [(r"^likeness\.log_scale", math.log(1 / 0.07)), (r"^unembed_patches", 0.0), *STEERED],
    "encoded_mlp": [(r"^likeness\.log_scale", math.log(1 / 0.07)), (r"^unembed_values", 0.0), *STEERED],
    "equivariant": [(r"^(pair_weights|end_weights\.2)\.weight$", 0.0), *STEERED],
    "transition_dit": [(r"^head\.output", 0.0), *STEERED],
    "transition_mlp": [(r"^head\.output", 0.0), *STEERED],
    "causal_transition": [(r"^head\.output", 0.0), (r"^embed_state", TABLE), *STEERED],
    "blockwise_mlp": [(r"^embed_label", TABLE), (r"", SEGMENT)],
    "autoencoder": [(r"norm\.weight$", 1.0), (r"bias$", 0.0), (r"\.second\.weight$", 0.0), (r"", CONVOLUTION)],
    "prototypes": [(r"norm\.weight$", 1.0), (r"(bias|feed_forward\.2\.weight)$", 0.0), (r"", CONVOLUTION)],
    "contrastive": [
        (r"(norm|projector\.1|predictor\.1)\.weight$", 1.0),
        (r"(bias|\.second\.weight)$", 0.0),
        (r"", CONVOLUTION),
    ],
    "policy_mlp": [(r"(bias|to_forward\.weight|to_backward\.weight|log_partition\.2\.weight)$", 0.0), (r"", MATRIX)],
    "descriptor_mlp": [(r"bias$", 0.0), (r"", MATRIX)],
    "gpt": [(r"norm\.weight$", 1.0), (r"(projection|feed_forward\.2)\.weight$", "stream"), (r"", TABLE)],
}
"""From part of a name to the value everywhere, or the kind of the draw; the first that is found counts."""


def built(config: RunConfig) -> dict[str, Tensor]:
    return dict(build_model(config, plan_layout(config, 1)).named_parameters())


def spread(kind: str, name: str, shape: tuple[int, ...], config: RunConfig) -> tuple[float, float]:
    """Standard deviation of a draw, and the largest size that a value may have."""
    if kind in (TABLE, "stream"):
        std = 0.02 if kind == TABLE else 0.02 / math.sqrt(2 * config.model.num_layers)
        return std, math.inf
    if kind == SEGMENT:
        inputs = parameter_shapes(config)[re.sub("bias$", "weight", name)][-1]
        bound = 1 / math.sqrt(inputs)
    else:
        bound = math.sqrt(6 / (shape[-1] + shape[-2])) if kind == MATRIX else 1 / math.sqrt(math.prod(shape[1:]))
    return bound / math.sqrt(3), bound


@each("kind", KINDS)
def test_each_parameter_begins_as_its_kind_says(kind: str) -> None:
    config = small(kind)
    drawn: dict[str, list[Tensor]] = {}
    for name, values in built(config).items():
        said = next(said for part, said in SAID[kind] if re.search(part, name))
        if not isinstance(said, str):
            assert torch.equal(values, torch.full_like(values, said)), name
            continue
        std, bound = spread(said, name, tuple(values.shape), config)
        assert float(values.detach().abs().max()) <= bound, name
        drawn.setdefault(said, []).append(values.detach().flatten().double() / std)
    for said, standardised in drawn.items():
        values = torch.cat(standardised)
        assert abs(float(values.mean())) < 5 / math.sqrt(len(values)), said
        # The variance of a mean of squares is that of a square over their number: 2 of a Gaussian, 0.8 of a uniform.
        assert abs(float(values.square().mean()) - 1) < 5 * math.sqrt(2 / len(values)), said


def test_a_parameter_depends_on_the_seed_and_on_its_name_alone() -> None:
    config = configuration({"kind": "gpt", "hidden": 16, "num_layers": 2})
    deeper = configuration({"kind": "gpt", "hidden": 16, "num_layers": 3})
    network = bare_network(config, plan_layout(config, 1))
    whole = built(config)
    assert torch.equal(whole["embed.weight"], built(deeper)["embed.weight"])
    assert not torch.equal(
        whole["blocks.0.attention.query_key_value.weight"], whole["blocks.1.attention.query_key_value.weight"]
    )
    reseeded = config.model_copy(update={"run": config.run.model_copy(update={"seed": 1})})
    assert not torch.equal(whole["embed.weight"], built(reseeded)["embed.weight"])
    copies = build_model(deeper.model_copy(update={"model": config.model}), plan_layout(config, 1))
    pieces = held_pieces(copies)
    for piece in pieces:
        piece.tensor.fill_(math.nan)
    fill(reversed(pieces), DrawnValues(network, config.run.seed))
    assert all(torch.equal(values, whole[name]) for name, values in copies.named_parameters())


@each("kind", KINDS)
def test_a_bare_network_has_shapes_and_buffers_and_draws_nothing(kind: str) -> None:
    config = small(kind)
    state = torch.get_rng_state()
    bare = bare_network(config, plan_layout(config, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: tuple(one.shape) for name, one in bare.named_parameters()} == parameter_shapes(config)
    assert all(parameter.is_meta for parameter in bare.parameters())
    whole = build_model(config, plan_layout(config, 1))
    assert all(torch.equal(one, other) for one, other in zip(bare.buffers(), whole.buffers(), strict=True))


class Told(nn.Module):
    """A network of one's own that says what its parameters begin with."""

    def __init__(self, spec: NetworkSpec[Any]) -> None:
        super().__init__()
        assert spec.generator is None
        self.blocks = nn.ModuleList([nn.Linear(spec.num_values, spec.num_values)])

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        assert (name, shape) in (("blocks.0.weight", (2, 2)), ("blocks.0.bias", (2,)))
        return Normal(3.0)


class ToldConfig(NetworkConfig):
    kind: Literal["told"] = "told"
    num_layers: int = 1
    label_dropout: float = 0.0
    init_from: Path | None = None
    hidden: int = 2

    network: ClassVar[Any] = Told
    data_kinds = ("toy",)
    sample_kinds = ("points",)


def test_a_network_of_ones_own_may_say_what_it_begins_with() -> None:
    config = configuration(ToldConfig())
    assert all(one.is_meta for one in bare_network(config, plan_layout(config, 1)).parameters())
    assert float(built(config)["blocks.0.weight"].detach().abs().max()) > 1
