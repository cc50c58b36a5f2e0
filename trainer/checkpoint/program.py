"""A run's network as programs of torch.export, which compute without this package.

The network of a flow becomes the velocity of its states, whatever it predicts, so that any solver of ordinary
differential equations draws with it. A mixture computes all its experts for every token: a program whose shapes do not
depend on the data loads in seconds and can be compiled.

Shape suffixes: T tokens, D model width, E experts, F inner width of an expert.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

from moe.config import ExpertChoiceRouterConfig, SparseOTRouterConfig, TopKRouterConfig
from netsim.foundation.files import write_bytes
from trainer.checkpoint.pretrained import restore
from trainer.config.derived import routed_adapters
from trainer.config.layout import Layout
from trainer.config.model import AutoencoderConfig, CausalTransitionConfig, GPTConfig
from trainer.config.model.dit import SegmentNetworkConfig
from trainer.config.run import RunConfig
from trainer.flow.condition import Condition
from trainer.flow.target import Target
from trainer.model.network import Network
from trainer.model.parallel.state import HoldsExperts

if TYPE_CHECKING:
    from moe.layer import PlacedMoELayer  # Megatron takes seconds to import
    from moe.router import PortableRouter

EXAMPLES, TOKENS = 2, 8
"""Sizes of the inputs that a program is recorded with; it takes any."""


Input = tuple[Tensor, Mapping[int, Any]]
"""An input of a program: an example of it, and the dimensions whose size is free."""


@dataclass(frozen=True)
class Program:
    """A module and its inputs, in the file `name`."""

    name: str
    module: nn.Module
    inputs: Sequence[Input]

    def write(self, folder: Path) -> None:
        examples, free = zip(*self.inputs, strict=True)
        try:
            with torch.no_grad():
                exported = torch.export.export(self.module, examples, dynamic_shapes=(free,))  # one variadic argument
        except RuntimeError as error:  # a custom network may do what no program can
            problem = str(error).splitlines()[0]
            raise ValueError(f"--program: torch.export refuses this network ({problem}); leave it out") from error
        content = io.BytesIO()  # torch warns of a temporary name
        torch.export.save(exported, content)
        write_bytes(folder / self.name, content.getvalue())


def unsuited(config: RunConfig) -> str | None:
    """Returns why a run's network cannot become a program, to complete a message; None if it can."""
    model, router = config.model, None if config.moe is None else config.moe.router
    if routed_adapters(config) is not None:
        return "routed adapters differ from task to task, and a program reads no tasks"
    if isinstance(model, SegmentNetworkConfig):
        return f"a {model.kind} chooses its blocks by the time"
    if isinstance(model, CausalTransitionConfig):
        return f"a {model.kind} draws one token after the other, beside a cache that grows"
    if config.encodes_captions:
        return f"paths of an {model.kind} begin at what another part of it makes of captions"
    match router:
        case (
            ExpertChoiceRouterConfig()
            | TopKRouterConfig(capacity_factor=float())
            | SparseOTRouterConfig(inference_capacity_factor=float())
        ):
            return f"its {router.kind} router chooses for a token by the other tokens of a batch"
    return None


def write_programs(
    config: RunConfig, weights: Path, folder: Path, groups: Callable[[], AbstractContextManager[object]]
) -> list[str]:
    """Writes the programs of a network with averaged weights, and returns the names of their files.

    A mixture is built in the process groups of one process.
    """
    reason = unsuited(config)
    if reason is not None:
        raise ValueError(f"--program: {reason}; leave it out")
    with nullcontext() if config.moe is None else groups():
        programs = _programs(config, _on_one_process(config, weights))
        for program in programs:
            program.write(folder)
    return [program.name for program in programs]


def _on_one_process(config: RunConfig, weights: Path) -> Network:
    if config.moe is not None:  # tokens have nowhere to move
        config = config.model_copy(update={"moe": config.moe.model_copy(update={"dispatch": "home"})})
    network = restore(config, Layout.single(config), weights.parent, weights.name).requires_grad_(False)
    for block in network.blocks:
        if isinstance(layer := getattr(block, "feed_forward", None), HoldsExperts):
            block.feed_forward = AllExperts(cast("PlacedMoELayer", layer))
    return network


def _programs(config: RunConfig, network: Network) -> list[Program]:
    shape, batch = config.state_shape, {0: Dim("batch")}
    if isinstance(config.model, AutoencoderConfig):
        latents = torch.zeros(EXAMPLES, *config.model.latent_shape(shape))
        return [
            Program("encode.pt2", Method(network, "encode"), [(torch.zeros(EXAMPLES, *shape), batch)]),
            Program("decode.pt2", Method(network, "decode"), [(latents, batch)]),
        ]
    if isinstance(config.model, GPTConfig):
        tokens = torch.zeros(EXAMPLES, min(TOKENS, config.model.context), dtype=torch.int64)
        free = {**batch, 1: Dim("length", max=config.model.context)}
        return [Program("program.pt2", Method(network, "forward"), [(tokens, free)])]
    if config.flow is None:
        given = config.model.inputs(shape)
        dtypes = [torch.int64 if one.integer else torch.float32 for one in given]
        inputs = [torch.zeros(EXAMPLES, *one.shape, dtype=dtype) for one, dtype in zip(given, dtypes, strict=True)]
        return [Program("program.pt2", Method(network, "forward"), [(one, batch) for one in inputs])]
    conditions = {name: (value, batch) for name, value in _conditions(config).items()}
    states = [(torch.zeros(EXAMPLES, *shape), batch), (torch.full((EXAMPLES,), 0.5), batch)]
    velocity = Velocity(network, config.flow.target.build(config.flow.path.build()), tuple(conditions))
    return [Program("program.pt2", velocity, [*states, *conditions.values()])]


def _conditions(config: RunConfig) -> dict[str, Tensor]:
    """Examples of the conditions that the network of a flow reads, in the order of the program's inputs."""
    conditions: dict[str, Tensor] = {}
    if not config.labels_in_state:
        conditions["label"] = torch.zeros(EXAMPLES, dtype=torch.int64)
    if config.context_shape is not None:
        conditions["context"] = torch.zeros(EXAMPLES, *config.context_shape)
    if config.caption_width:
        conditions["caption"] = torch.zeros(EXAMPLES, config.caption_width)
    return conditions


class Velocity(nn.Module):
    """The velocity of a flow at states and times, under the conditions that `names` lists."""

    def __init__(self, network: Network, target: Target, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self._target, self._names = network, target, names

    def forward(self, *inputs: Tensor) -> Tensor:
        x, t, *conditions = inputs
        given = dict(zip(self._names, conditions, strict=True))
        condition = Condition(given.get("label"), given.get("context"), caption=given.get("caption"))
        return self._target.convert(self.network(x, t, condition), x, t, "velocity")


class Method(nn.Module):
    """Calls a method of a network; outputs become plain tuples, since a program has no named tuples."""

    def __init__(self, network: Network, name: str) -> None:
        super().__init__()
        self.network, self._name = network, name

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        outputs = getattr(self.network, self._name)(*inputs)
        return outputs if isinstance(outputs, Tensor) else tuple(outputs)


class AllExperts(nn.Module):
    """A mixture whose experts all compute every token; gate values weight their outputs, 0 for those not chosen."""

    def __init__(self, layer: "PlacedMoELayer") -> None:
        super().__init__()
        self.router, self.shared_experts = cast("PortableRouter[Any]", layer.router), layer.shared_experts
        stacks = layer.expert_stacks()
        self.first_EFD, self.second_EDF = stacks["linear_fc1.weight"], stacks["linear_fc2.weight"]

    def forward(self, tokens: Tensor) -> Tensor:
        rows_TD = tokens.flatten(0, -2)
        gates_TE = self.router.select(self.router.gating(rows_TD), None).probs
        inner_TEF = functional.gelu(torch.einsum("td,efd->tef", rows_TD, self.first_EFD))
        output_TD = torch.einsum("tef,edf->td", inner_TEF * gates_TE[:, :, None], self.second_EDF)
        if self.shared_experts is not None:
            first_FD, second_DF = self.shared_experts.linear_fc1.weight, self.shared_experts.linear_fc2.weight
            inner_TF = functional.gelu(functional.linear(rows_TD, first_FD))
            output_TD = output_TD + functional.linear(inner_TF, second_DF)
        return output_TD.view(tokens.shape)
