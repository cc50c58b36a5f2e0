"""Small networks whose blocks belong to segments of time, with weights that differ from 0."""

from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.methods.plain_loop import flow_task
from trainer.config.model import BlockwiseConfig
from trainer.flow import Condition, path
from trainer.model.blockwise import Blockwise
from trainer.model.network import NetworkSpec
from trainer.model.values import initialised
from trainer.task import FlowTask

SIZES: dict[str, Any] = {"segments": 3, "hidden": 16, "num_heads": 2, "trunk_layers": 2, "segment_layers": 1}
CLASSES = 4
STRAIGHT = path.LinearConfig().build()


def network(**settings: Any) -> Blockwise:
    """A network on images 1 x 4 x 4, all of whose weights differ from 0."""
    config = BlockwiseConfig(**{**SIZES, **settings})
    made = initialised(Blockwise(NetworkSpec(config=config, state_shape=(1, 4, 4), num_classes=CLASSES)), 0)
    return stirred(made).eval()


def stirred(made: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return made


def points(number: int) -> tuple[Tensor, Tensor, Condition]:
    generator = torch.Generator().manual_seed(2)
    x, t = torch.randn(number, 1, 4, 4, generator=generator), torch.rand(number, generator=generator)
    return x, t, Condition(torch.randint(CLASSES + 1, (number,), generator=generator))


def flow(**model: Any) -> FlowTask:
    """A flow-matching task over such a network."""
    task = flow_task({}, model={"kind": "blockwise", **SIZES, **model})
    task.parts.null_label = CLASSES
    return task


def single(trained: Blockwise, segment: int) -> Blockwise:
    """The network that has the blocks of one segment at all times."""
    alone = network(segments=1, **{name: SIZES[name] for name in ("trunk_layers", "segment_layers")})
    state = alone.state_dict()
    for name, value in trained.state_dict().items():
        if name in state:
            state[name] = value[segment : segment + 1] if name.startswith("own_blocks") else value
    alone.load_state_dict(state)
    return alone
