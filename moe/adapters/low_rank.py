"""A frozen linear layer with a trained matrix of low rank beside it.

Shape suffixes: I inputs, O outputs, R rank.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def check_rank(base: nn.Linear, rank: int) -> None:
    """Refuses a rank that a layer does not have.

    Args:
        base: the layer.
        rank: of what is added to it.

    Raises:
        ValueError: it is below 1 or above the smaller of the layer's inputs and outputs.
    """
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
        """Wraps a layer, whose own parameters have no gradient from now on.

        Args:
            base: any linear layer.
            rank: R, from 1 to the smaller of its inputs and outputs.
            scale: what B A x is multiplied by.
            generator: draws A, uniform in +-1 / sqrt(I) as torch draws linear layers; None: A is left open, for values
                that are written to it.

        Raises:
            ValueError: the rank is larger than that of the layer.
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
    """The matrix of the linear layer that computes what an adapted one does, W + scale B A, [O, I].

    Args:
        weight_OI: W.
        A_RI, B_OR: the trained matrices.
        scale: what B A x is multiplied by.
    """
    added = scale * (B_OR.double() @ A_RI.double())
    return (weight_OI.double() + added).to(weight_OI.dtype)
