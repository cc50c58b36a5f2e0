"""What a run can train, and what it is built from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn

from trainer.config.model import NetworkConfig

C = TypeVar("C", bound=NetworkConfig)


class Network(nn.Module):
    """What a run trains: a module with blocks. What it is called with is a matter of its task.

    Any module of torch with `blocks` will do, derived from this class or not. It is no protocol, since engines take
    modules alone, and a protocol cannot derive from one.

    One that also is a :class:`trainer.model.layer.initial.StatesInitial` is never whole in the memory of a rank that
    trains a part of it: its constructor then sees parameters without memory, and its values are drawn one parameter at
    a time. Any other draws its values itself.

    Attributes:
        blocks: the layers of its traces, which engines compile, repeat and gather one by one.
    """

    blocks: nn.ModuleList


@dataclass(frozen=True, kw_only=True)
class NetworkSpec(Generic[C]):
    """What a network is built from.

    Attributes:
        config: its own settings.
        state_shape: shape of the state of an example, which `config.check_states` accepts.
        num_classes: labels 0 to num_classes - 1; one more, `null_label`, stands for no label.
        num_fields: states that a prediction holds one behind the other.
        mixture: from a block's index to a mixture of experts [B, N, D] -> [B, N, D], which is its feed-forward layer;
            None: the feed-forward layers are dense.
        context_channels: channels of the condition's context, read beside those of the state.
        read_context: what the context goes through first, to those channels at the resolution of the state.
        caption_width: of the vectors of captions that the condition holds; 0: it holds none.
        generator: for a network that draws its initial weights itself; None: there is nothing to draw, since it says
            what its parameters begin with, or is built for their shapes alone.
    """

    config: C
    state_shape: tuple[int, ...]
    num_classes: int = 0
    num_fields: int = 1
    mixture: Callable[[int], nn.Module] | None = None
    context_channels: int = 0
    read_context: nn.Module | None = None
    caption_width: int = 0
    generator: torch.Generator | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a state that is an image."""
        channels, height, width = self.state_shape
        return channels, height, width

    @property
    def num_values(self) -> int:
        """Values of a state that is a vector."""
        (values,) = self.state_shape
        return values
