"""What routers and tokens send on the way to their experts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moe.dispatch.coherent_messages import MODES, expected_exchanges
from moe.dispatch.messages import Borrowing, Exchange, Sizes
from trainer.trace.formula.protocol import DTYPES, ELEMENT_BYTES, Collective, Phase, Place, all_gather, all_reduce


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTraffic:
    """The collectives of mixture layers.

    Tokens are spread evenly over the ranks of their expert group, what does not divide in rotation; a recording has
    uneven splits. Its totals are the same where the number of visits is: always in home-return dispatch, elsewhere
    where `Visits.even` is exact. Capped dispatch sends the same whatever the routing, to the last split. A router that
    decides itself how many experts a token visits, or that drops choices, is taken at its top_k; in coherent dispatch
    tokens are taken to remain as many on each rank.

    Attributes:
        expert_parallel: ranks that share the experts of a layer; 1 issues no collectives for tokens.
        moe_layers: indices of the model blocks that hold experts.
        num_nodes: nodes that they are on.
        dispatch: how tokens travel: home, capped, copies, hierarchical or coherent.
        most_choices: capacity of a message of coherent dispatch, in choices.
        key_value_width: elements of a token's keys and values in a layer, gathered in coherent dispatch.
        target_bytes: of a target that ranks send each other in coherent dispatch, 1 or 4.
        dropout: whether ranks in coherent dispatch send each other a seed.
        router_sums: element type and bytes of each all-reduce over the data ranks by which a router balances the tokens
            of a layer's forward pass.
        tokens: tokens of a rank and micro step.
        hidden: width of a token.
        borrowings: replicas of each layer with experts; empty: there are none.
        expert_elements: elements of an expert's weights.
        seats: choices that each expert takes from each rank, for capped dispatch.
    """

    expert_parallel: int
    num_nodes: int = 1
    moe_layers: tuple[int, ...]
    dispatch: str = "home"
    num_experts: int
    top_k: int
    most_choices: int = 0
    key_value_width: int = 0
    target_bytes: int = 1
    dropout: bool = False
    router_sums: tuple[tuple[str, int], ...] = ()
    tokens: int
    hidden: int
    precision: str
    borrowings: tuple[Borrowing | None, ...] = ()
    expert_elements: int = 0
    seats: int | None = None

    def __post_init__(self) -> None:
        """Refuse modes that no formula covers."""
        if self.dispatch not in MODES:
            raise ValueError(f"moe.dispatch: has no formula ({self.dispatch}); use one of {', '.join(MODES)}")

    def inside(self, phase: Phase, place: Place, /) -> Iterator[Collective]:
        """See the protocol."""
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
        """Exchanges of a pass, at least those of a layer, each with its block."""
        layers: Sequence[int] = self.moe_layers
        borrowings: Sequence[Borrowing | None] = self.borrowings
        if self.dispatch != "coherent":  # where layers follow from one another
            own = [number for number, one in enumerate(layers) if one == layer]
            layers = [layers[number] for number in own]
            borrowings = [borrowings[number] for number in own if borrowings]
        element_bytes, dtype = ELEMENT_BYTES[self.precision], DTYPES[self.precision]
        keys_and_values = self.key_value_width * element_bytes
        sizes = Sizes(
            self.hidden,
            element_bytes,
            self.num_experts,
            dtype,
            key_value_bytes=keys_and_values,
            expert_bytes=self.expert_elements * element_bytes,
            target_bytes=self.target_bytes,
        )
        return expected_exchanges(
            self.dispatch,
            phase,
            sizes,
            layers,
            num_ranks=self.expert_parallel,
            num_nodes=self.num_nodes,
            tokens=self.tokens,
            top_k=self.top_k,
            most_choices=self.most_choices,
            borrowings=borrowings,
            seats=self.seats,
        )

    def _router_sums(self) -> Iterator[Collective]:
        for dtype, size in self.router_sums:
            yield all_reduce("data", dtype, size)
