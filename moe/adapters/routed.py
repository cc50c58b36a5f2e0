"""Linear layers with an inventory of low-rank modules, which each task mixes for itself.

Shape suffixes: B rows, N tokens of a row, D inputs, P outputs, H heads, M modules, I inputs of a head, O outputs of a
head, R rank.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe.adapters.task_router import RowTasks, TaskRouter


class RoutedLinear(nn.Module):
    """y = W x + scale B_t A_t x, where A_t and B_t are means of modules, weighted as the task t of the row asks.

    Inputs and outputs are cut into heads. Each head of A_t and of B_t is a mean of its own, and the means are taken
    before the product. With one head this is Polytropon; with one module, whatever the heads, a low-rank adapter.

    Source: Caccia et al., "Multi-Head Adapter Routing for Cross-Task Generalization", arXiv 2211.03831, section 3.1.

    Attributes:
        base: the layer that is adapted; it stays as it is.
        down_HMIR: the modules' shares of A.
        up_HMRO: the modules' shares of B.
        routing: gives the weights of the modules.
    """

    def __init__(
        self,
        base: nn.Linear,
        rows: RowTasks,
        *,
        num_tasks: int,
        num_modules: int,
        num_heads: int,
        rank: int,
        alpha: float | None = None,
    ) -> None:
        """Builds the adapter; see :meth:`reset` for its values.

        Args:
            base: the layer that is adapted.
            rows: where the layer learns the tasks of its rows.
            num_tasks: tasks that have weights of their own.
            num_modules: M.
            num_heads: H, which divides the inputs and the outputs of the layer.
            rank: R.
            alpha: what is added is multiplied by alpha / rank; None: by 1.

        Raises:
            ValueError: the heads do not divide the layer.
        """
        super().__init__()
        for side, width in (("inputs", base.in_features), ("outputs", base.out_features)):
            if width % num_heads:
                raise ValueError(f"heads: {num_heads} does not divide {width} {side} of a linear layer; use a divisor")
        self.base, self.rows = base, rows
        self.scale = 1.0 if alpha is None else alpha / rank
        inputs, outputs = base.in_features // num_heads, base.out_features // num_heads
        self.down_HMIR = nn.Parameter(torch.empty(num_heads, num_modules, inputs, rank))
        self.up_HMRO = nn.Parameter(torch.empty(num_heads, num_modules, rank, outputs))
        self.routing = TaskRouter(num_tasks, num_heads, num_modules)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draws fresh modules, which add nothing yet, and fresh routing."""
        bound = 1 / math.sqrt(self.down_HMIR.shape[2])
        self.down_HMIR.uniform_(-bound, bound, generator=generator)
        self.up_HMRO.zero_()
        self.routing.reset(generator)

    def mean(self) -> tuple[Tensor, Tensor]:
        """A [R, D] and B [P, R] of the low-rank adapter that is the mean module: of A and of B, not of their products.

        Source: Caccia et al., section 3.2 (MHR-mu).
        """
        return _joined(self.down_HMIR.mean(1), self.up_HMRO.mean(1))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer.

        Args:
            x: [B, D], or [B, *N, D] where the rows have tokens.

        Returns:
            [B, *N, P].
        """
        given, down, up = self.base(x), self.down_HMIR, self.up_HMRO
        if down.shape[1] == 1:  # nothing to weigh
            down_RD, up_PR = _joined(down[:, 0], up[:, 0])
            return given + self.scale * functional.linear(functional.linear(x, down_RD), up_PR)
        weights_BHM = self.routing(self.rows.of(len(x))).to(x.dtype)
        x_BND = x.reshape(len(x), -1, x.shape[-1])
        added_BNP = weighted_product(x_BND, down, up, weights_BHM)
        return given + self.scale * added_BNP.view(given.shape)


def weighted_product(x_BND: Tensor, down_HMIR: Tensor, up_HMRO: Tensor, weights_BHM: Tensor) -> Tensor:
    """Multiplies each row by its own means of the modules.

    Rows with many tokens get their matrices, which are smaller than the rows then. Rows with few tokens, of which there
    may be many, go through the modules of all tasks at once and weigh what comes out.

    Args:
        x_BND: the rows.
        down_HMIR: the modules' shares of A.
        up_HMRO: the modules' shares of B.
        weights_BHM: of the modules.

    Returns:
        [B, N, P], the product with A and with B.
    """
    (_, tokens, _), rank = x_BND.shape, down_HMIR.shape[-1]
    if tokens > rank:
        down_BDR = torch.einsum("bhm,hmir->bhir", weights_BHM, down_HMIR).flatten(1, 2)
        up_BRP = torch.einsum("bhm,hmro->brho", weights_BHM, up_HMRO).flatten(2)
        return x_BND @ down_BDR @ up_BRP
    x_BNHI = x_BND.unflatten(2, (len(down_HMIR), -1))
    by_module_BNHMR = torch.einsum("bnhi,hmir->bnhmr", x_BNHI, down_HMIR)
    inner_BNR = torch.einsum("bhm,bnhmr->bnr", weights_BHM, by_module_BNHMR)
    weighed_BNHMR = torch.einsum("bhm,bnr->bnhmr", weights_BHM, inner_BNR)
    return torch.einsum("bnhmr,hmro->bnho", weighed_BNHMR, up_HMRO).flatten(2)


def _joined(down_HIR: Tensor, up_HRO: Tensor) -> tuple[Tensor, Tensor]:
    """The heads beside each other, as weights [R, D] and [P, R] of linear layers."""
    down_RD = down_HIR.permute(2, 0, 1).flatten(1)
    up_PR = up_HRO.permute(0, 2, 1).flatten(0, 1)
    return down_RD.contiguous(), up_PR.contiguous()
