"""Computation of a rank in passes of networks, by formula: operations and bytes of memory in each place of one."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod

from trainer.config.derived import expert_parameters, tokens_per_example
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.config.sections import FSDPConfig
from trainer.experiment.forecast.protocol import ELEMENT_BYTES, Collective, Passage, Phase, Place
from trainer.model.build import dense_shapes
from trainer.model.flops import OPERATIONS_PER_MULTIPLY_ADD, PASSES, training_flops

_OPTIMIZER_BYTES = 28
"""Of a parameter in an update: its gradient, master copy and two moments are read, the last three written."""


@dataclass(frozen=True, slots=True)
class Work:
    """Computation: floating-point operations, and bytes to and from memory."""

    flops: int = 0
    memory_bytes: int = 0

    def __add__(self, other: "Work") -> "Work":
        """Both, one after the other."""
        return Work(self.flops + other.flops, self.memory_bytes + other.memory_bytes)

    def times(self, number: int) -> "Work":
        """The same a number of times."""
        return Work(number * self.flops, number * self.memory_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
    """Computation of a rank; a backward pass is two forward passes, once for each gradient of a product.

    Attributes:
        block: forward pass of a block on one rank without its experts.
        experts: forward pass of the experts that a rank holds of a block, for as many tokens as it sends away.
        around: forward pass of what belongs to no block; it is counted behind the last one.
        update: of the optimiser.
    """

    block: Work
    experts: Work
    around: Work
    update: Work

    def dense(self, phase: Phase, place: Place) -> Work:
        """A pass through a place, without experts."""
        forward = self.around if place == "after" else Work() if place == "before" else self.block
        return forward if phase == "forward" else forward.times(PASSES - 1)

    def mixture(self, phase: Phase, place: Place) -> Work:
        """A pass through the experts of a place."""
        forward = self.experts if isinstance(place, int) else Work()
        return forward if phase == "forward" else forward.times(PASSES - 1)

    def without_blocks(self, num_blocks: int) -> "Computation":
        """The same for a pass whose blocks are no places of their own, such as that of a network that sends nothing."""
        whole = self.around + (self.block + self.experts).times(num_blocks)
        return replace(self, block=Work(), experts=Work(), around=whole)


def events(passage: Passage, phase: Phase, place: Place, computes: Computation | None) -> Iterator[Collective | Work]:
    """Collectives of the layers of a place, and computation in between.

    Experts compute in the middle of the exchanges of tokens: between their way there and back. What else a block
    computes comes before its exchanges in a forward pass and behind them in a backward pass, in equal parts before the
    sums over divided layers.
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
            yield Work(dense.flops // len(sums), dense.memory_bytes // len(sums))
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
    per_step = training_flops(config)
    if per_step is None:
        raise ValueError(f"--work: the arithmetic of model.kind {config.model.kind} is not known; leave it out")
    tokens, layers = states * tokens_per_example(config), getattr(config.model, "num_layers", 0)
    whole, share = per_step // PASSES, layout.tensor_parallel
    block = _of_a_block(config, whole, layers)
    visited = 0 if config.moe is None else 2 * config.model.hidden * config.moe.expert_hidden * config.moe.top_k
    element = ELEMENT_BYTES[precision or config.engine.precision]
    shapes = dense_shapes(config, share)
    inner = {name: shape for name, shape in shapes.items() if name.startswith("blocks.0.")}
    outer = {name: shape for name, shape in shapes.items() if not name.startswith("blocks.")}
    of_tokens = OPERATIONS_PER_MULTIPLY_ADD * tokens // states * visited
    homes = 0 if config.moe is None else config.moe.num_experts // layout.expert_parallel
    carried = (
        0 if config.moe is None else tokens * config.moe.top_k * 2 * (config.model.hidden + config.moe.expert_hidden)
    )
    return Computation(
        block=Work(
            states * (block - of_tokens) // share,
            element * (_elements(inner.values()) + _moved(inner, tokens)),
        ),
        experts=Work(
            states * of_tokens,
            element * (homes * (0 if config.moe is None else expert_parameters(config)) + carried),
        ),
        around=Work(
            states * (whole - layers * block),
            element * (_elements(outer.values()) + _moved(outer, tokens)),
        ),
        update=_update(config, layout, _elements(shapes.values()), homes * layers),
    )


def _of_a_block(config: RunConfig, whole: int, layers: int) -> int:
    """Operations of one block for one example: what another one would add, at most an equal part of the whole."""
    if not layers:
        return 0
    deeper = config.model_copy(update={"model": config.model.model_copy(update={"num_layers": layers + 1})})
    added = (training_flops(deeper) or 0) // PASSES - whole
    return min(added, whole // layers)


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
