"""The task of each row of a pass, and the weights that a task gives to the modules of a layer.

Shape suffixes: T tasks, B rows, H heads, M modules.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ROUTING_BOUND = 1e-3
"""Routing logits begin uniform in [-1e-3, 1e-3], so that a fresh task has nearly the mean of all modules."""


class RowTasks:
    """Which task each row of a pass belongs to: one object that all routed layers of a network look at.

    Attributes:
        now: int64 [B] tasks of the rows of the pass that is being computed; None: no pass is, or it has no tasks.
    """

    def __init__(self) -> None:
        self.now: Tensor | None = None

    def of(self, num_rows: int) -> Tensor:
        """The tasks of the rows, int64 [B].

        Args:
            num_rows: rows that a layer was called with.

        Raises:
            ValueError: the tasks are not known, or are those of another number of rows.
        """
        if self.now is None:
            raise ValueError("task: None, and routed adapters read the task of each row; give the condition its tasks")
        if len(self.now) != num_rows:
            raise ValueError(f"task: {len(self.now)} rows, where a routed layer has {num_rows}; give each row its task")
        return self.now


class TaskRouter(nn.Module):
    """Weights of the modules of a layer, learned for each task and head.

    The weights are sigmoids of the logits, divided by their sum over the modules.

    Source: Ponti et al., "Combining Modular Skills in Multitask Learning", arXiv 2202.13914, section 2 (one head);
    Caccia et al., "Multi-Head Adapter Routing for Cross-Task Generalization", arXiv 2211.03831, section 3.1.
    """

    def __init__(
        self, num_tasks: int, num_heads: int, num_modules: int, generator: torch.Generator | None = None, **like: Any
    ) -> None:
        """Builds the router.

        Args:
            num_tasks: T.
            num_heads: H.
            num_modules: M.
            generator: draws the logits, uniform in +- `ROUTING_BOUND`; None: they are left open, for values that are
                written to them.
            **like: device and type of the logits.
        """
        super().__init__()
        self.logits = nn.Parameter(torch.empty(num_tasks, num_heads, num_modules, **like))
        if generator is not None:
            nn.init.uniform_(self.logits, -ROUTING_BOUND, ROUTING_BOUND, generator=generator)

    def weights(self) -> Tensor:
        """Weights of all tasks, [T, H, M] in float32 or better, of which each head's sum to 1."""
        return _normalised(self.logits)

    def forward(self, tasks_B: Tensor) -> Tensor:
        """Weights of the tasks of some rows.

        Args:
            tasks_B: int64 [B], each in 0 to T - 1.

        Returns:
            [B, H, M] in float32 or better, of which each head's sum to 1.
        """
        return _normalised(functional.embedding(tasks_B, self.logits.flatten(1)).unflatten(1, self.logits.shape[1:]))


def _normalised(logits: Tensor) -> Tensor:
    """Sigmoids over their sum, as a softmax of their logarithms: no small number has to keep the sum from being 0."""
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return functional.logsigmoid(exact).softmax(dim=-1)
