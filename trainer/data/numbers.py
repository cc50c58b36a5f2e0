"""Numbers without end, for tasks that draw their examples themselves."""

from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.data.protocol import Batch, Dataset, Split

FIRST_HELD_OUT = 2**62


class NumbersConfig(Section):
    """Examples that are nothing but their numbers: 0, 1, 2, ... without end, each dealt once."""

    kind: Literal["numbers"] = "numbers"
    held_out: PositiveInt = 256
    """Numbers that are kept out of training."""

    @property
    def shape(self) -> tuple[int]:
        """(1,), a number."""
        return (1,)

    @property
    def num_classes(self) -> int:
        """There are none."""
        return 0

    @property
    def class_names(self) -> tuple[str, ...]:
        """There are no classes."""
        return ()


class Numbers(Dataset):
    """Examples int64 [1] that are their own ids; training ones from 0, held-out ones from 2**62.

    A task makes keys of its draws from them: the same on any number of ranks and after a resumption.
    """

    shape = (1,)
    num_classes = 0
    endless = True

    def __init__(self, config: NumbersConfig) -> None:
        self._splits: dict[Split, Tensor] = {
            "train": torch.arange(0),
            "held_out": torch.arange(FIRST_HELD_OUT, FIRST_HELD_OUT + config.held_out),
        }

    def indices(self, split: Split) -> Tensor:
        return self._splits[split]

    def get(self, indices: Tensor) -> Batch:
        return Batch(indices[:, None], None, indices)
