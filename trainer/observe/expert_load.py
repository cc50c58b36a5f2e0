"""How evenly the experts are used."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.model.parameters import HoldsExperts


class ExpertLoad:
    """Counts the tokens of each expert over the micro batches of one optimiser step."""

    def __init__(self, model: nn.Module) -> None:
        """Listens to the routers of a network.

        Args:
            model: the network; a dense one has nothing to report.
        """
        routers = [module.router for module in model.modules() if isinstance(module, HoldsExperts)]
        self._counts: list[Tensor | None] = [None] * len(routers)
        for layer, router in enumerate(routers):
            router.register_forward_hook(self._counter(layer))

    def start(self) -> None:
        """Forgets the last step."""
        self._counts = [None] * len(self._counts)

    def reduced(self) -> dict[str, float]:
        """Sums over the ranks; collective.

        Returns:
            ``expert_load_max_over_mean``: the busiest expert's tokens over the mean, averaged over the layers; 1 is
            balanced, the number of experts is collapse. Empty for a dense network.
        """
        if not self._counts or any(counts is None for counts in self._counts):
            return {}
        counts_LE = torch.stack([counts for counts in self._counts if counts is not None]).double()
        dist.all_reduce(counts_LE)
        return {"expert_load_max_over_mean": float((counts_LE.amax(dim=1) / counts_LE.mean(dim=1)).mean())}

    def _counter(self, layer: int) -> Any:
        def count(router: nn.Module, _inputs: Any, output: tuple[Tensor, Tensor]) -> None:
            if router.training:
                tokens = output[1].sum(dim=0)
                earlier = self._counts[layer]
                self._counts[layer] = tokens if earlier is None else earlier + tokens

        return count
