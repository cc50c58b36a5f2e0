"""Language modelling."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.data import Batch
from trainer.flow.objective import LossTerms
from trainer.task.protocol import Task


class DrawnWindows(NamedTuple):
    """Windows of text.

    Attributes:
        log_weight: see `Drawn`; there are none.
        tokens: int64 [B, N + 1].
    """

    log_weight: None
    tokens: Tensor


class NextTokenTask(Task):
    """Each byte of a window but the first, predicted from those before it; an example's loss is its mean in nats."""

    def draw(
        self,
        batches: Sequence[Batch],
        generators: Sequence[torch.Generator],  # noqa: ARG002
        ranks: dist.ProcessGroup | None = None,  # noqa: ARG002
    ) -> list[DrawnWindows]:
        """See `Task.draw`; nothing is drawn."""
        return [DrawnWindows(None, batch.x_1) for batch in batches]

    def loss(self, model: Callable[..., Tensor], drawn: DrawnWindows) -> LossTerms:
        """See `Task.loss`."""
        return LossTerms(model(drawn.tokens[:, :-1], drawn.tokens[:, 1:]), terms={})

    def held_out_figures(self, loss: float) -> dict[str, float]:
        """See `Task.held_out_figures`; a token is a byte, so its loss in bits compares with what a compressor needs."""
        return {"held_out_loss": loss, "held_out_bits_per_byte": loss / math.log(2)}
