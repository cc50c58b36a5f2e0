"""The choices that a model of `transformers` makes, taken where it hands them to its experts.

Every mixture there passes its experts the tokens, the chosen ids [T, K] and the gate weights [T, K]. What is recorded
is therefore what is computed, whatever the selection: plain top-k, groups of experts, a bias for balance, hashes.
Llama 4 passes its experts copies of the tokens instead; there the router's scores tell, which are 0 but for the choice.

Shape legend: T tokens of a pass, L MoE layers, K choices per token and layer, E experts.
"""

import re
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from moe.routing_trace import DROPPED

_NUMBER = re.compile(r"\.(\d+)\.")


class _Choice(NamedTuple):
    """Ids and weights are [T, K]."""

    layer: str
    ids: Tensor
    weights: Tensor


class ExpertChoices:
    """Listens to the experts of a model.

    Attributes:
        num_experts: Experts per layer; the largest number if layers differ.
        layers: Names of the layers of the last pass, in its order.
    """

    def __init__(self, model: nn.Module) -> None:
        """Attach to every MoE layer.

        Args:
            model: A causal model of `transformers`.

        Raises:
            ValueError: None of its modules are experts.
        """
        self._handed: list[_Choice] = []
        self._overheard: list[_Choice] = []
        self.num_experts = 0
        self.layers: list[str] = []
        for name, module in model.named_modules():
            if type(module).__name__.endswith("Experts"):
                self.num_experts = max(self.num_experts, _count(module, model))
                module.register_forward_pre_hook(self._listen(f"{name}."), with_kwargs=True)
            elif isinstance(module, nn.Linear) and isinstance(getattr(module, "top_k", None), int):
                module.register_forward_hook(self._overhear(f"{name}.", module))
        if not self.num_experts:
            raise ValueError("has no layers with experts")

    def take(self, tokens: int) -> tuple[list[Tensor], list[Tensor]]:
        """What the layers chose since the last call.

        Args:
            tokens: Tokens T of the pass, padding included.

        Returns:
            Ids, int64 [T, K], and weights, float32 [T, K], of each layer in the order of the pass. The strongest choice
            comes first; -1 and weight 0 where an id stands for no expert.

        Raises:
            ValueError: The experts were given no ids, or not one row a token.
        """
        choices = self._handed or self._overheard
        self._handed, self._overheard = [], []
        if not choices:
            raise ValueError("its experts are not told which tokens chose them")
        if any(len(choice.ids) != tokens for choice in choices):
            raise ValueError(f"its experts are given {len(choices[0].ids)} rows for {tokens} tokens")
        self.layers = [choice.layer for choice in choices]
        pairs = [_sorted(choice, self.num_experts) for choice in choices]
        return [ids for ids, _ in pairs], [weights for _, weights in pairs]

    def block_numbers(self) -> list[int] | None:
        """Number of the block of each layer of the last pass, or None where names do not tell in ascending order."""
        found = [_NUMBER.search(layer) for layer in self.layers]
        numbers = [int(one[1]) for one in found if one]
        ascending = all(first < second for first, second in pairwise(numbers))
        return numbers if len(numbers) == len(found) and ascending else None

    def _listen(self, layer: str) -> Any:
        def keep(_: nn.Module, arguments: tuple, named: dict[str, Any]) -> None:
            tensors = [
                value for value in (*arguments, *named.values()) if isinstance(value, Tensor) and value.ndim == 2
            ]
            ids = next((one for one in tensors if one.dtype in (torch.int32, torch.int64)), None)
            if ids is None:
                return
            fitting = [one for one in tensors if one.is_floating_point() and one.shape == ids.shape]
            weights = fitting[-1] if fitting else torch.zeros(ids.shape)
            self._handed.append(_Choice(layer, ids.detach().cpu(), weights.detach().float().cpu()))

        return keep

    def _overhear(self, layer: str, router: nn.Module) -> Any:
        def keep(_: nn.Module, __: tuple, output: Any) -> None:
            if isinstance(output, tuple) and isinstance(output[0], Tensor) and output[0].ndim == 2:
                weights, ids = output[0].detach().float().cpu().topk(int(router.top_k), dim=1)  # pyright: ignore
                self._overheard.append(_Choice(layer, ids, weights))

        return keep


def _count(module: nn.Module, model: nn.Module) -> int:
    """Experts of a layer, by the names that `transformers` has for their number."""
    config = getattr(model, "config", None)
    for owner, name in (
        (module, "num_experts"),
        (module, "num_routed_experts"),
        (config, "num_local_experts"),
        (config, "num_experts"),
        (config, "n_routed_experts"),
    ):
        number = getattr(owner, name, None)
        if isinstance(number, int):
            return number
    return 0


def _sorted(choice: _Choice, num_experts: int) -> tuple[Tensor, Tensor]:
    """Ids and weights, the strongest first and those of no expert last."""
    none = (choice.ids < 0) | (choice.ids >= num_experts)
    keys = choice.weights.masked_fill(none, -torch.inf)
    order = keys.argsort(dim=1, descending=True, stable=True)
    ids = choice.ids.long().masked_fill(none, DROPPED).gather(1, order)
    return ids, choice.weights.masked_fill(none, 0.0).gather(1, order)
