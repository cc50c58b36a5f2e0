"""The whole image."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.operator.protocol import Operator


class IdentityConfig(Section):
    """Every pixel is observed. With noise in the observations and a soft consistency, this is the removal of noise."""

    kind: Literal["identity"] = "identity"


class Identity(Operator):
    """A x = x."""

    def apply(self, images: Tensor, /) -> Tensor:
        """See `Operator.apply`."""
        return images

    def adjoint(self, observed: Tensor, /) -> Tensor:
        """See `Operator.adjoint`."""
        return observed

    def pseudo_inverse(self, observed: Tensor, /) -> Tensor:
        """See `Operator.pseudo_inverse`."""
        return observed
