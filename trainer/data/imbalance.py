"""Fewer training examples of later classes."""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

from moe.seeds import derive_seed, fold_in
from netsim.foundation.settings import Section


class ImbalanceConfig(Section):
    """Fewer training examples of each later class, as classes are outside benchmarks; held-out examples all stay."""

    ratio: float = Field(gt=1, le=1e6)
    """Share of its examples that the first class keeps, all, over that of the last; between them it falls by the same
    factor from class to class."""
    seed: NonNegativeInt = Field(default=0, lt=2**63)
    """Of which examples are kept; a larger ratio keeps some of those that a smaller one does."""


Imbalance = Annotated[ImbalanceConfig | None, Field(exclude_if=lambda imbalance: imbalance is None)]
"""None is not written: runs from before there were any keep their identity."""


def check_imbalance(imbalance: ImbalanceConfig | None, num_classes: int) -> None:
    """Refuses, with a ValueError, examples of no classes, or of one."""
    if imbalance is not None and num_classes < 2:
        raise ValueError(
            f"imbalance: is between classes, and these examples have {num_classes}; leave it out, or give labels"
        )


def kept(imbalance: ImbalanceConfig | None, ids: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Those of ids that are kept, in their order; at least one of each class that has any; `labels` are of `ids`."""
    if imbalance is None:
        return ids
    keys = fold_in(torch.tensor(derive_seed("imbalance", imbalance.seed)), ids)
    stays = torch.zeros(len(ids), dtype=torch.bool)
    for number in range(num_classes):
        own = (labels == number).nonzero().flatten()
        num = round(len(own) * imbalance.ratio ** (-number / (num_classes - 1)))
        stays[own[keys[own].argsort()[: max(num, 1)]]] = True
    return ids[stays]
