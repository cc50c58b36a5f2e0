"""A transformer in numbers: the weights of a rank, and what a pass computes, reads and writes.

Counted are matrix products; attention counts every pair of tokens. What runs along with them, such as norms, is taken
as fused, so that bytes are those of weights and of what products read and write.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple

from netsim.workload.device import Product, Work
from netsim.workload.model.config import ModelConfig

_OPTIMIZER_BYTES = 28
"""Bytes per weight of an AdamW update: reads gradient, master copy, two moments; writes the last three."""


class Weight(NamedTuple):
    """A matrix or vector, what multiplies it in a pass, and whether it counts as memory traffic."""

    shape: tuple[int, ...]
    rows: Literal["tokens", "examples", "none"] = "none"
    moves: bool = True

    @property
    def size(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Network:
    """The weights of a rank in the order of the network, where `tensor` ranks share the matrices of a block.

    Attributes:
        before: what comes before the blocks.
        block: a block without its experts.
        after: what comes behind the blocks.
        experts: the matrices of all experts of a block that the rank holds.
    """

    before: tuple[Weight, ...]
    block: tuple[Weight, ...]
    after: tuple[Weight, ...]
    experts: tuple[Weight, ...]

    @classmethod
    def of(cls, config: ModelConfig, tensor: int) -> "Network":
        hidden, inner, steered = config.hidden, config.inner, config.network == "dit"
        keys = hidden * config.kv_heads // config.heads if config.heads and config.kv_heads else hidden
        first = inner * (1 + config.gated)
        norm = () if steered else (Weight((hidden,)),)
        attention = _linear((hidden + 2 * keys) // tensor, hidden, steered)
        attention += _linear(hidden, hidden // tensor, steered)
        steering = _linear(6 * hidden, hidden, True, "examples", moves=False) if steered else ()
        if config.experts is None:
            fed = _linear(first // tensor, hidden, steered) + _linear(hidden, inner // tensor, steered)
        else:
            shared = config.shared_expert or 0
            fed = _linear(config.experts, hidden, False)
            fed += (_linear(shared, hidden, False) + _linear(hidden, shared, False)) if shared else ()
        stacks = ((first * config.homes, hidden), (hidden * config.homes, inner)) if config.homes else ()
        if not steered:
            table = config.vocabulary, hidden
            before, after = (Weight(table),), (*norm, Weight(table, "tokens"))
        else:
            time = _linear(hidden, hidden, True, "examples")
            before = (*_linear(hidden, config.patch, True), *time, *time, Weight((config.classes + 1, hidden)))
            final = _linear(2 * hidden, hidden, True, "examples", moves=False)
            after = final + _linear(config.patch, hidden, True)
        block = norm + attention + steering + norm + fed
        return cls(before, block, after, tuple(map(Weight, stacks)))


def _linear(
    width: int, inputs: int, bias: bool, rows: Literal["tokens", "examples"] = "tokens", *, moves: bool = True
) -> tuple[Weight, ...]:
    return Weight((width, inputs), rows, moves), *[Weight((width,))] * bias


class Computation:
    """Work of a rank in a microbatch: forward through parts of the network, and its update.

    Attributes:
        block: a block without its experts.
        experts: the experts of a block that a rank holds, for as many tokens as it sends away.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._config, self._own = config, Network.of(config, config.division.tensor)
        whole, share = Network.of(config, 1), config.division.tensor
        attention = Product("attention", 4 * config.tokens * config.example * config.hidden)
        products = (*self._products(whole.block), attention)
        arithmetic = Work(_flops(products), 0, products).part(share)
        self.block = arithmetic + Work(0, self._bytes(self._own.block))
        self.experts = self._of_experts()

    def around(self, weights: Iterable[Weight]) -> Work:
        """Work with weights outside the blocks."""
        weights = tuple(weights)
        products = tuple(self._products(weights))
        return Work(_flops(products), self._bytes(weights), products)

    def update(self, elements: int) -> Work:
        """Work of the optimiser for `elements` weights."""
        return Work(0, elements * (_OPTIMIZER_BYTES + self._config.weight_bytes))

    def _of_experts(self) -> Work:
        config, stacks = self._config, self._own.experts
        if not stacks:
            return Work()
        choices, homes = config.tokens * config.top_k, config.homes
        products = tuple(Product("gemm", 2 * choices * one.size // homes // homes, homes) for one in stacks)
        flops = sum(2 * choices * one.size // homes for one in stacks)
        carried = choices * sum((one.shape[0] + one.shape[1] * homes) // homes for one in stacks)
        held = config.weight_bytes * sum(one.size for one in stacks)
        return Work(flops, held + config.activation_bytes * carried, products)

    def _products(self, weights: Iterable[Weight]) -> Iterable[Product]:
        rows = {"tokens": self._config.tokens, "examples": self._config.tokens // self._config.example}
        return (Product("gemm", 2 * rows[one.rows] * one.size) for one in weights if one.rows != "none")

    def _bytes(self, weights: Iterable[Weight]) -> int:
        weights = tuple(weights)
        moved = sum(sum(one.shape) for one in weights if one.moves and len(one.shape) == 2)
        held = self._config.weight_bytes * sum(one.size for one in weights)
        return held + self._config.activation_bytes * self._config.tokens * moved


def _flops(products: Iterable[Product]) -> int:
    return sum(one.flops * one.count for one in products)
