"""Small trained matrices beside the frozen ones of a network: one of low rank, or an inventory that each task mixes.

Shape suffixes: B rows, N tokens of a row, D inputs, P outputs, T tasks, H heads, M modules, R rank; I inputs and O
outputs of a head, or of a layer without heads.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ROUTING_BOUND = 1e-3
"""Routing logits begin uniform in [-1e-3, 1e-3], so that a fresh task has nearly the mean of all modules."""


def check_rank(base: nn.Linear, rank: int) -> None:
    """Refuses a rank below 1 or above the smaller of the layer's inputs and outputs with a ValueError."""
    most = min(base.in_features, base.out_features)
    if not 1 <= rank <= most:
        raise ValueError(
            f"rank: {rank} is not between 1 and {most}, all that a layer of {base.in_features} inputs and "
            f"{base.out_features} outputs has; use {min(max(rank, 1), most)}"
        )


class LowRankLinear(nn.Module):
    """y = W x + b + scale B A x, where A and B alone are trained.

    B begins at zero, so that the layer begins as the one that it wraps.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, section 4.1.

    Attributes:
        base: the layer with W and b.
        A_RI: the trained matrix that reads.
        B_OR: the trained matrix that writes.
        active: whether B A is added; false: the layer is its base.
    """

    def __init__(
        self, base: nn.Linear, rank: int, scale: float = 1.0, generator: torch.Generator | None = None
    ) -> None:
        """Wraps a linear layer, whose own parameters have no gradient from now on.

        The generator draws A, uniform in +-1 / sqrt(I) as torch draws linear layers; None: A is left open, for values
        that are written to it.
        """
        super().__init__()
        check_rank(base, rank)
        self.base = base.requires_grad_(False)
        self.in_features, self.out_features, self.scale, self.active = base.in_features, base.out_features, scale, True
        like = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.A_RI = nn.Parameter(torch.empty(rank, base.in_features, **like))
        self.B_OR = nn.Parameter(torch.zeros(base.out_features, rank, **like))
        if generator is not None:
            nn.init.kaiming_uniform_(self.A_RI, a=math.sqrt(5), generator=generator)

    def forward(self, input: Tensor) -> Tensor:
        """Maps [..., I] to [..., O]."""
        output = self.base(input)
        if not self.active:
            return output
        return output + self.scale * functional.linear(functional.linear(input, self.A_RI), self.B_OR)


def merged(weight_OI: Tensor, A_RI: Tensor, B_OR: Tensor, scale: float) -> Tensor:
    """Returns the weight of a plain linear layer that equals the adapted one, W + scale B A, [O, I]."""
    added = scale * (B_OR.double() @ A_RI.double())
    return (weight_OI.double() + added).to(weight_OI.dtype)


class RowTasks:
    """Holds the task of each row of a forward pass; all routed layers of a network share this object.

    Attributes:
        now: tasks of the rows of the current forward pass, int64 [B]; None outside a pass, or if it has no tasks.
    """

    def __init__(self) -> None:
        self.now: Tensor | None = None

    def of(self, num_rows: int) -> Tensor:
        """Returns the tasks of the current rows, int64 [B]; ValueError if unknown or not `num_rows` in number."""
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
        """Draws logits uniform in +- `ROUTING_BOUND`; without a generator they are left open, to be written to."""
        super().__init__()
        self.logits = nn.Parameter(torch.empty(num_tasks, num_heads, num_modules, **like))
        if generator is not None:
            nn.init.uniform_(self.logits, -ROUTING_BOUND, ROUTING_BOUND, generator=generator)

    def weights(self) -> Tensor:
        """Weights of all tasks, [T, H, M] in float32 or better, of which each head's sum to 1."""
        return _normalised(self.logits)

    def forward(self, tasks_B: Tensor) -> Tensor:
        """Weights [B, H, M] of tasks int64 [B] in float32 or better, of which each head's sum to 1."""
        return _normalised(functional.embedding(tasks_B, self.logits.flatten(1)).unflatten(1, self.logits.shape[1:]))


def _normalised(logits: Tensor) -> Tensor:
    """Returns the sigmoids over their sum, as a softmax of their logarithms, so that no division by 0 can occur."""
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return functional.logsigmoid(exact).softmax(dim=-1)


class RoutedLinear(nn.Module):
    """y = W x + scale B_t A_t x, where A_t and B_t are means of modules, by the weights of the row's task t.

    Inputs and outputs are cut into heads. Each head of A_t and of B_t is a mean of its own, and the means are taken
    before the product. With one head this is Polytropon; with one module, whatever the heads, a low-rank adapter.

    Source: Caccia et al., "Multi-Head Adapter Routing for Cross-Task Generalization", arXiv 2211.03831, section 3.1.

    Attributes:
        base: the layer with W and its bias.
        rows: the tasks of the rows of a pass.
        active: whether anything is added; false: the layer is its base.
        A_HMIR: the modules' shares of A.
        B_HMRO: the modules' shares of B.
        routing: weights of the modules.
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
        scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Wraps a linear layer, whose own parameters have no gradient from now on.

        H divides its inputs and outputs, and R is at most the smaller of them. The generator draws fresh modules, which
        add nothing yet, and fresh routing; None: they are left open, for values that are written to them.
        """
        super().__init__()
        for side, width in (("inputs", base.in_features), ("outputs", base.out_features)):
            if width % num_heads:
                raise ValueError(f"heads: {num_heads} does not divide {width} {side} of a linear layer; use a divisor")
        check_rank(base, rank)
        self.base = base.requires_grad_(False)
        self.in_features, self.out_features, self.scale, self.active = base.in_features, base.out_features, scale, True
        self.rows = rows
        inputs, outputs = base.in_features // num_heads, base.out_features // num_heads
        like = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.A_HMIR = nn.Parameter(torch.empty(num_heads, num_modules, inputs, rank, **like))
        self.B_HMRO = nn.Parameter(torch.zeros(num_heads, num_modules, rank, outputs, **like))
        self.routing = TaskRouter(num_tasks, num_heads, num_modules, generator, **like)
        if generator is not None:
            bound = module_bound(base.in_features, num_heads)
            nn.init.uniform_(self.A_HMIR, -bound, bound, generator=generator)

    def mean(self) -> tuple[Tensor, Tensor]:
        """A [R, D] and B [P, R] of the low-rank adapter that is the mean module: of A and of B, not of their products.

        Source: Caccia et al., section 3.2 (MHR-mu).
        """
        return mean_module(self.A_HMIR, self.B_HMRO)

    def forward(self, input: Tensor) -> Tensor:
        """Maps [B, D], or [B, *N, D] where the rows have tokens, to [B, *N, P]."""
        given = self.base(input)
        if not self.active:
            return given
        A_HMIR, B_HMRO = self.A_HMIR, self.B_HMRO
        if A_HMIR.shape[1] == 1:  # nothing to weigh
            A_RD, B_PR = _joined(A_HMIR[:, 0], B_HMRO[:, 0])
            return given + self.scale * functional.linear(functional.linear(input, A_RD), B_PR)
        weights_BHM = self.routing(self.rows.of(len(input))).to(input.dtype)
        x_BND = input.reshape(len(input), -1, self.in_features)
        return given + self.scale * weighted_product(x_BND, A_HMIR, B_HMRO, weights_BHM).view(given.shape)


def mean_module(A_HMIR: Tensor, B_HMRO: Tensor) -> tuple[Tensor, Tensor]:
    """A [R, D] and B [P, R] of the low-rank adapter that is the mean of modules."""
    return _joined(A_HMIR.mean(1), B_HMRO.mean(1))


def module_bound(num_inputs: int, num_heads: int) -> float:
    """Returns the bound of the uniform draw of a fresh A, as torch draws a linear layer with the inputs of a head."""
    return 1 / math.sqrt(num_inputs // num_heads)


def weighted_product(x_BND: Tensor, A_HMIR: Tensor, B_HMRO: Tensor, weights_BHM: Tensor) -> Tensor:
    """Multiplies each row by its own weighted means of the modules of A, then of B: [B, N, P].

    With more tokens a row than the rank, the mean matrices of each row are computed first, since they are smaller than
    the row. With fewer tokens, all rows go through every module, and the results are weighted.
    """
    (_, tokens, _), rank = x_BND.shape, A_HMIR.shape[-1]
    if tokens > rank:
        A_BDR = torch.einsum("bhm,hmir->bhir", weights_BHM, A_HMIR).flatten(1, 2)
        B_BRP = torch.einsum("bhm,hmro->brho", weights_BHM, B_HMRO).flatten(2)
        return x_BND @ A_BDR @ B_BRP
    x_BNHI = x_BND.unflatten(2, (len(A_HMIR), -1))
    by_module_BNHMR = torch.einsum("bnhi,hmir->bnhmr", x_BNHI, A_HMIR)
    inner_BNR = torch.einsum("bhm,bnhmr->bnr", weights_BHM, by_module_BNHMR)
    weighed_BNHMR = torch.einsum("bhm,bnr->bnhmr", weights_BHM, inner_BNR)
    return torch.einsum("bnhmr,hmro->bnho", weighed_BNHMR, B_HMRO).flatten(2)


def _joined(A_HIR: Tensor, B_HRO: Tensor) -> tuple[Tensor, Tensor]:
    """Joins the heads side by side into the weights [R, D] and [P, R] of two linear layers."""
    A_RD = A_HIR.permute(2, 0, 1).flatten(1)
    B_PR = B_HRO.permute(0, 2, 1).flatten(0, 1)
    return A_RD.contiguous(), B_PR.contiguous()
