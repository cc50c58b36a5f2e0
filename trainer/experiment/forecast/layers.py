"""Collectives of the layers of a network in its passes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from moe.config import MoEConfig, SparseOTRouterConfig
from moe.dispatch.coherent_messages import MODES, expected_exchanges
from moe.dispatch.messages import Borrowing, Exchange, Sizes
from moe.ot import summed_elements
from trainer.config.derived import expert_parameters
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.experiment.forecast.protocol import (
    DTYPES,
    ELEMENT_BYTES,
    Collective,
    LayerTraffic,
    Phase,
    Place,
    all_gather,
    all_reduce,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorTraffic:
    """All-reduces that sum up the parts of divided (tensor-parallel) layers.

    A pair of divided layers sums its output in the forward pass and the gradient of its input in the backward pass,
    where a rank computes the gradient of the weights meanwhile.
    """

    pairs: int
    summed: Collective

    def inside(self, phase: Phase, place: Place, /) -> Iterator[Collective]:
        if isinstance(place, int):
            for _ in range(self.pairs):
                yield replace(self.summed, until_next=phase == "backward")


def tensor_sum(tokens: int, hidden: int, precision: str) -> Collective:
    """A sum over the parts of a divided layer's result; all ranks of the group have the same tokens of a micro step."""
    return all_reduce("tensor", DTYPES[precision], tokens * hidden * ELEMENT_BYTES[precision])


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTraffic:
    """The collectives of mixture layers.

    Tokens are assumed to be spread evenly over the ranks of their expert group, with the remainder in rotation. A
    recording has uneven splits. Its totals are the same if the number of visits is: always in home-return dispatch, in
    other modes if `Visits.even` is exact. Capped dispatch has the same splits for any routing. A router that chooses
    the number of experts of a token, or drops choices, counts with its top_k. In coherent dispatch the number of tokens
    on each rank is assumed constant.

    Attributes:
        num_nodes: nodes that the ranks of an expert group are on.
        most_choices, dropout: of coherent dispatch: capacity of a message in choices, and whether ranks share a seed.
        router_sums: element type and bytes of each all-reduce over the data ranks by which a router balances the tokens
            of a layer's forward pass.
        tokens: of a rank and micro step.
        borrowings: replicas of each layer with experts; empty: there are none.
        capacity: choices that each expert takes from each rank, for capped dispatch.
    """

    expert_parallel: int
    num_nodes: int = 1
    moe_layers: tuple[int, ...]
    dispatch: str = "home"
    sizes: Sizes
    top_k: int
    most_choices: int = 0
    dropout: bool = False
    router_sums: tuple[tuple[str, int], ...] = ()
    tokens: int
    borrowings: tuple[Borrowing | None, ...] = ()
    capacity: int | None = None

    def __post_init__(self) -> None:
        """Refuse modes that no formula covers."""
        if self.dispatch not in MODES:
            raise ValueError(f"moe.dispatch: has no formula ({self.dispatch}); use one of {', '.join(MODES)}")

    def inside(self, phase: Phase, place: Place, /) -> Iterator[Collective]:
        if place == "before":
            if phase == "forward" and self.dispatch == "coherent" and self.dropout and self.expert_parallel > 1:
                yield all_gather("expert", "int64", 8, self.expert_parallel)
        elif phase == "forward" and self.expert_parallel == 1 and place in self.moe_layers:
            yield from self._router_sums()
        layer = None if place == "after" else place
        tells_counts = phase == "forward" and layer is not None
        for of_layer, exchange in self._exchanges(phase, layer):
            if of_layer == layer:
                if tells_counts and "int" in exchange.dtype:  # counts follow the choices
                    yield from self._router_sums()
                    tells_counts = False
                yield Collective(exchange.group, exchange=exchange)

    def _exchanges(self, phase: Phase, layer: Place | None) -> Iterator[tuple[int | None, Exchange]]:
        """Returns exchanges of a pass with their blocks: those of `layer`; in coherent dispatch those of all layers."""
        layers: Sequence[int] = self.moe_layers
        borrowings: Sequence[Borrowing | None] = self.borrowings
        if self.dispatch != "coherent":  # where layers follow from one another
            own = [number for number, one in enumerate(layers) if one == layer]
            layers = [layers[number] for number in own]
            borrowings = [borrowings[number] for number in own if borrowings]
        return expected_exchanges(
            self.dispatch,
            phase,
            self.sizes,
            layers,
            num_ranks=self.expert_parallel,
            num_nodes=self.num_nodes,
            tokens=self.tokens,
            top_k=self.top_k,
            most_choices=self.most_choices,
            borrowings=borrowings,
            capacity=self.capacity,
        )

    def _router_sums(self) -> Iterator[Collective]:
        for dtype, size in self.router_sums:
            yield all_reduce("data", dtype, size)


def layers(
    config: RunConfig,
    layout: Layout,
    *,
    tokens: int,
    precision: str,
    evaluates: bool = False,
    replays: bool = False,
    sums: bool = True,
) -> Iterator[LayerTraffic]:
    """Traffic of a network's layers in a pass over `tokens` tokens of each rank.

    In evaluation mode routers do not balance and there is no dropout. With `replays`, routers repeat the choices of
    rollouts and have no limits. Without `sums`, the engine adds those over divided layers, since it knows their places
    among its gathers.
    """
    if layout.tensor_parallel > 1 and sums:
        summed = tensor_sum(tokens, config.model.hidden, precision)
        yield TensorTraffic(pairs=2 if config.moe is None else 1, summed=summed)
    if config.moe is not None:
        yield _tokens(config, config.moe, layout, tokens, precision, evaluates=evaluates, replays=replays)


def _tokens(
    config: RunConfig, moe: MoEConfig, layout: Layout, tokens: int, precision: str, *, evaluates: bool, replays: bool
) -> TokenTraffic:
    balances, element_bytes = layout.world_size > 1 and not evaluates, ELEMENT_BYTES[precision]
    sizes = Sizes(
        config.model.hidden,
        element_bytes,
        moe.num_experts,
        DTYPES[precision],
        key_value_bytes=config.model.key_value_width * element_bytes,
        expert_bytes=expert_parameters(config) * element_bytes,
        target_bytes=config.model.token_bytes,
    )
    return TokenTraffic(
        expert_parallel=layout.expert_parallel,
        num_nodes=layout.expert_parallel // (layout.relay_ranks or layout.expert_parallel),
        moe_layers=tuple(range(config.model.num_layers)),
        dispatch="home" if (evaluates or replays) and moe.dispatch == "capped" else moe.dispatch,
        sizes=sizes,
        top_k=moe.top_k,
        most_choices=moe.most_choices,
        dropout=config.model.keyed_dropout and not evaluates,
        router_sums=_router_sums(moe, chooses=not replays) if balances else (),
        tokens=tokens,
        borrowings=tuple(Borrowing.of(slots, moe.replicas) for slots in layout.slots),
        capacity=moe.capacity(tokens),
    )


def _router_sums(moe: MoEConfig, *, chooses: bool) -> tuple[tuple[str, int], ...]:
    """Returns type and bytes of a router's sums: spread of logits, evaluations of potentials, choices by expert."""
    match moe.router:
        case SparseOTRouterConfig(potentials="global", evaluations=evaluations):
            solve = (("float32", 4 * elements) for elements in summed_elements(moe.num_experts, evaluations))
            choices = (("int64", 8 * moe.num_experts),) if chooses else ()
            return ("float64", 16), *solve, *choices
    return ()
