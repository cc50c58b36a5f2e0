"""What a network with routed adapters begins with: the modules of another run."""

from torch import Tensor

from moe.adapters import mean_module
from trainer.model.parallel.state import StatePiece
from trainer.model.values import Values
from trainer.model.weight_files import Weights


class SavedModules:
    """Modules as they were saved, or their mean where the network has low-rank adapters; fresh routing.

    Caccia et al., "Multi-Head Adapter Routing", arXiv 2211.03831, section 3.2.
    """

    def __init__(self, weights: Weights, routing: Values) -> None:
        """Reads nothing yet; `routing` gives the values of the routing, whose tasks are others."""
        self._weights, self._routing = weights, routing

    def of(self, piece: StatePiece) -> Tensor | None:
        layer, _, name = piece.name.rpartition(".")
        if name in ("A_RI", "B_OR"):
            saved = (self._weights.tensor(f"{layer}.{module}") for module in ("A_HMIR", "B_HMRO"))
            A_RD, B_PR = mean_module(*saved)
            return piece.of(A_RD if name == "A_RI" else B_PR)
        if layer.endswith(".routing"):
            return self._routing.of(piece)
        return self._weights.rectangle(piece.name, piece.offset, piece.tensor.shape)
