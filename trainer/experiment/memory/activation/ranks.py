"""One process in the place of all ranks, for passes whose values do not matter."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses import fake_tensor
from torch.utils._python_dispatch import TorchDispatchMode

from moe.dispatch.exchange import Splits
from trainer.config.layout import Layout

_MOST_KNOWN = 2**20
"""Elements of a tensor whose values a `FakeTensorMode` still follows: the counts of rows of all ranks are known."""


@contextmanager
def ranks_of(layout: Layout) -> Iterator[None]:
    """also if stopped before the stage began, 128 + the number of the signal if the stage had nothing to save yet."""
    from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from trainer.distributed.groups import divide_ranks, unite_ranks

    hook = sys.excepthook  # torch puts the number of the rank before every message from then on
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=layout.world_size)
    sys.excepthook = hook
    try:
        divide_ranks(layout.expert_parallel, layout.tensor_parallel, layout.relay_ranks)
        with patch.object(MoEAuxLossAutoScaler, "main_loss_backward_scale", None):  # else kept, without a value
            yield
    finally:
        unite_ranks()
        dist.destroy_process_group()


@contextmanager
def even_routing(choices: int, copies: int) -> Iterator[None]:
    """While entered, tokens without values are spread evenly over experts wherever the host reads numbers.

    Args:
        choices: of the tokens of a rank in a layer.
        copies: of those tokens, one for each rank that holds any of a token's experts.
    """

    def gathered(counts_E: Tensor, group: dist.ProcessGroup) -> Tensor:
        return torch.tensor([_even(choices, counts_E.numel())] * group.size())

    def exchanged(counts_2N: Tensor, _group: dist.ProcessGroup) -> tuple[Splits, Splits]:
        rows, labels = (_even(int(total), counts_2N.shape[1]) for total in (copies, choices))
        return Splits(rows, labels), Splits(rows, labels)

    def counted(sorted_keys: Tensor, number: int) -> Tensor:
        return torch.tensor(_even(len(sorted_keys), number))

    with ExitStack() as stack:
        stack.enter_context(patch.object(fake_tensor, "CONSTANT_NUMEL_LIMIT", _MOST_KNOWN))
        stack.enter_context(patch("moe.dispatch.serving.gather_counts", gathered))
        stack.enter_context(patch("moe.dispatch.home_return.exchange_counts", exchanged))
        stack.enter_context(patch("moe.dispatch.home_return.counts_of", counted))
        stack.enter_context(_KnownNumbers())
        yield


class _KnownNumbers(TorchDispatchMode):
    """Keeps the values of whole numbers that a tensor is filled with."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.full.default and kwargs.get("dtype") == torch.int64 and len(args[0]) == 1:
            return torch.tensor([args[1]] * args[0][0])
        return func(*args, **kwargs)


def _even(total: int, number: int) -> list[int]:
    each, more = divmod(total, number)
    return [each + (index < more) for index in range(number)]
