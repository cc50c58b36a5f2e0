"""What the layers of a run's network send in its passes."""

from collections.abc import Iterator

from moe.config import MoEConfig, SparseOTRouterConfig
from moe.dispatch.messages import Borrowing
from moe.ot import summed_elements
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.model.build import expert_parameters
from trainer.trace.formula.protocol import LayerTraffic
from trainer.trace.formula.tensor import TensorTraffic, tensor_sum
from trainer.trace.formula.tokens import TokenTraffic


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
    """Traffic of the layers of a network in its passes.

    Args:
        tokens: that a rank gives its network in one call.
        precision: element type of tokens, fp32 or bf16.
        evaluates: whether passes are in evaluation mode, where routers do not balance and nothing is dropped out.
        replays: whether routers choose what they chose in rollouts, so that they limit nothing.
        sums: whether sums over divided layers are among it, and not left to an engine that knows their places among its
            gathers.
    """
    if layout.tensor_parallel > 1 and sums:
        summed = tensor_sum(tokens, config.model.hidden, precision)
        yield TensorTraffic(pairs=2 if config.moe is None else 1, summed=summed)
    if config.moe is not None:
        yield _tokens(config, config.moe, layout, tokens, precision, evaluates=evaluates, replays=replays)


def _tokens(
    config: RunConfig, moe: MoEConfig, layout: Layout, tokens: int, precision: str, *, evaluates: bool, replays: bool
) -> TokenTraffic:
    balances = layout.world_size > 1 and not evaluates
    return TokenTraffic(
        expert_parallel=layout.expert_parallel,
        num_nodes=layout.expert_parallel // (layout.relay_ranks or layout.expert_parallel),
        moe_layers=tuple(range(config.model.num_layers)),
        dispatch="home" if (evaluates or replays) and moe.dispatch == "capped" else moe.dispatch,
        num_experts=moe.num_experts,
        top_k=moe.top_k,
        most_choices=moe.most_choices,
        key_value_width=config.model.key_value_width,
        target_bytes=config.model.token_bytes,
        dropout=config.model.keyed_dropout and not evaluates,
        router_sums=_router_sums(moe, chooses=not replays) if balances else (),
        tokens=tokens,
        hidden=config.model.hidden,
        precision=precision,
        borrowings=tuple(Borrowing.of(slots, moe.replicas) for slots in layout.slots),
        expert_elements=expert_parameters(config),
        seats=moe.seats(tokens),
    )


def _router_sums(moe: MoEConfig, *, chooses: bool) -> tuple[tuple[str, int], ...]:
    """Spread of the logits, each evaluation of the potentials, and the choices of each expert."""
    match moe.router:
        case SparseOTRouterConfig(potentials="global", evaluations=evaluations):
            solve = (("float32", 4 * elements) for elements in summed_elements(moe.num_experts, evaluations))
            choices = (("int64", 8 * moe.num_experts),) if chooses else ()
            return ("float64", 16), *solve, *choices
    return ()
