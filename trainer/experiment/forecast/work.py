"""Computation of a rank in passes of networks, by formula: operations and bytes of memory in each place of one."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeVar

from trainer.config.derived import expert_parameters, tokens_per_example
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.config.sections import FSDPConfig
from trainer.experiment.forecast.protocol import ELEMENT_BYTES, Collective, Passage, Phase, Place, Products
from trainer.model.build import VISITED, dense_shapes
from trainer.model.flops import OPERATIONS_PER_MULTIPLY_ADD, PASSES, forward_products, questions_in_training

Item = TypeVar("Item")
_OPTIMIZER_BYTES = 28
"""Bytes per parameter of an update: reads gradient, master copy and two moments; writes the last three."""


@dataclass(frozen=True, slots=True)
class Work:
    """Computation: floating-point operations, bytes to and from memory, and the products that make the operations."""

    flops: int = 0
    memory_bytes: int = 0
    products: Products = ()

    def __add__(self, other: "Work") -> "Work":
        """The work of both, one after the other."""
        return Work(self.flops + other.flops, self.memory_bytes + other.memory_bytes, self.products + other.products)

    def times(self, number: int) -> "Work":
        """The same work, done `number` times."""
        products = tuple((kind, flops, number * count) for kind, flops, count in self.products)
        return Work(number * self.flops, number * self.memory_bytes, products)

    def part(self, number: int) -> "Work":
        """One of `number` equal parts of each product."""
        products = tuple((kind, flops // number, count) for kind, flops, count in self.products)
        return Work(self.flops // number, self.memory_bytes // number, products)

    def fields(self) -> dict[str, Any]:
        """Its fields in a record, where products of one kind and size are one entry."""
        counts = Counter[tuple[str, int]]()
        for kind, flops, count in self.products:
            counts[kind, flops] += count
        products = tuple((*product, count) for product, count in sorted(counts.items()))
        return {"flops": self.flops, "memory_bytes": self.memory_bytes, "products": products}


def _work(products: Iterable[tuple[str, int]], states: int) -> Work:
    """Returns the work of several states, given the products of one."""
    scaled = tuple((kind, states * flops, 1) for kind, flops in products)
    return Work(sum(flops for _, flops, _ in scaled), 0, scaled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
    """Computation of a rank; a backward pass counts as two forward passes, one for each gradient of a product.

    Attributes:
        blocks: forward pass of each block on one rank without its experts.
        experts: forward pass of the experts that a rank holds of a block, for as many tokens as it sends away.
        around: forward pass of what belongs to no block; it is counted behind the last one.
        update: of the optimiser.
    """

    blocks: tuple[Work, ...]
    experts: Work
    around: Work
    update: Work

    def dense(self, phase: Phase, place: Place) -> Work:
        """A pass through a place, without experts."""
        forward = self.around if place == "after" else Work() if place == "before" else self.blocks[place]
        return forward if phase == "forward" else forward.times(PASSES - 1)

    def mixture(self, phase: Phase, place: Place) -> Work:
        """A pass through the experts of a place."""
        forward = self.experts if isinstance(place, int) else Work()
        return forward if phase == "forward" else forward.times(PASSES - 1)

    def without_blocks(self) -> "Computation":
        """The same computation, all counted behind the last block; for networks whose passes send nothing."""
        whole = sum(self.blocks, self.around) + self.experts.times(len(self.blocks))
        return replace(self, blocks=(), experts=Work(), around=whole)


def events(passage: Passage, phase: Phase, place: Place, computes: Computation | None) -> Iterator[Collective | Work]:
    """Collectives of the layers of a place, and computation in between.

    Experts compute between the two halves of the exchanges of tokens: after dispatch and before return. The rest of a
    block's computation comes before its exchanges in a forward pass and after them in a backward pass, in equal parts
    before the sums over divided layers.
    """
    sent = list(passage.inside(phase, place))
    if computes is None:
        yield from sent
        return
    exchanges = [n for n, one in enumerate(sent) if one.exchange is not None and "int" not in one.exchange.dtype]
    middle = exchanges[len(exchanges) // 2] if exchanges else len(sent)
    sums = [number for number, one in enumerate(sent) if one.exchange is None and one.group == "tensor"]
    dense = computes.dense(phase, place)
    late = phase == "backward" and bool(exchanges)
    if not sums and not late:
        yield dense
    for number, collective in enumerate(sent):
        if number in sums:
            yield dense.part(len(sums))
        if number == middle:
            yield computes.mixture(phase, place)
        yield collective
    if middle == len(sent):
        yield computes.mixture(phase, place)
    if not sums and late:
        yield dense


def computation(config: RunConfig, layout: Layout, *, states: int, precision: str | None = None) -> Computation:
    """Computation of a rank in a micro step and an update.

    Operations are those of matrix products (`trainer.model.flops`). Bytes are those of the weights, and of what each
    product reads and writes; what runs along with them, such as norms and activations, is taken as fused.
    """
    made = forward_products(config, *questions_in_training(config))
    if made is None:
        raise ValueError(f"--work: the arithmetic of model.kind {config.model.kind} is not known; leave it out")
    tokens, share = states * tokens_per_example(config), layout.tensor_parallel
    layers = getattr(config.model, "num_layers", 0)
    element = ELEMENT_BYTES[precision or config.engine.precision]
    products = _by_block((name, (kind, flops)) for name, kind, flops in made if not name.endswith(f".{VISITED}"))
    shapes = dense_shapes(config, share)
    weights = _by_block((name, (name, shape)) for name, shape in shapes.items())

    def work(block: int | None, share: int = 1) -> Work:
        named = dict(weights[block])
        moved = element * (_elements(named.values()) + _moved(named, tokens))
        return _work(products[block], states).part(share) + Work(0, moved)

    experts, homes = _of_experts(config, layout, tokens, element)
    return Computation(
        blocks=tuple(work(block, share) for block in range(layers)),
        experts=experts,
        around=work(None),
        update=_update(config, layout, _elements(shapes.values()), homes * layers),
    )


def _by_block(named: Iterable[tuple[str, Item]]) -> dict[int | None, list[Item]]:
    """Items of each block, by their names in the network; key None has those outside the blocks."""
    items = defaultdict[int | None, list[Item]](list)
    for name, item in named:
        first, _, inside = name.partition(".")
        items[int(inside.partition(".")[0]) if first == "blocks" else None].append(item)
    return items


def _of_experts(config: RunConfig, layout: Layout, tokens: int, element: int) -> tuple[Work, int]:
    """Returns the work of a rank's experts of a block, for as many tokens as it sends away, and their number."""
    if config.moe is None:
        return Work(), 0
    hidden, inner = config.model.hidden, config.moe.expert_hidden
    homes, choices = config.moe.num_experts // layout.expert_parallel, tokens * config.moe.top_k
    flops = OPERATIONS_PER_MULTIPLY_ADD * choices * hidden * inner
    held = element * (homes * expert_parameters(config) + 2 * choices * (hidden + inner))
    return Work(2 * flops, held, (("gemm", flops // homes, 2 * homes),)), homes


def _elements(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(map(prod, shapes))


def _moved(shapes: dict[str, tuple[int, ...]], tokens: int) -> int:
    """Elements that products with some matrices read and write; modulations are of an example, and left out."""
    matrices = [shape for name, shape in shapes.items() if len(shape) == 2 and "modulation" not in name]
    return tokens * sum(map(sum, matrices))


def _update(config: RunConfig, layout: Layout, dense: int, experts: int) -> Work:
    shared = isinstance(config.engine, FSDPConfig) or config.engine.zero_stage > 0
    owned = dense // layout.data_parallel if shared else dense
    if config.moe is not None:
        of_experts = experts * expert_parameters(config)
        owned += of_experts // layout.expert_data_parallel if shared else of_experts
    return Work(0, owned * (_OPTIMIZER_BYTES + ELEMENT_BYTES[config.engine.precision]))
