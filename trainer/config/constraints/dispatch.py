"""Models and routers that a dispatch mode cannot serve."""

from moe.config import ExpertChoiceRouterConfig, MoEConfig, SparseOTRouterConfig, TopKRouterConfig
from trainer.config.run import RunConfig


def check_dispatch(config: RunConfig) -> None:
    """Refuses a dispatch mode that the model or the router rules out.

    Context-coherent dispatch needs tokens that can stay on the rank of their expert, capped dispatch a router that
    limits what an expert takes of the tokens of one rank.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    if config.moe is None:
        return
    if config.moe.dispatch == "capped":
        _check_capped(config.moe)
    if config.moe.dispatch == "coherent":
        _check_coherent(config, config.moe)


def _check_capped(moe: MoEConfig) -> None:
    if moe.cap is None:
        raise ValueError(f"moe.dispatch: capped sends as many rows as an expert may take, and {_unlimited(moe)}")
    if moe.migration is not None:
        raise ValueError(
            f"moe.migration.every: {moe.migration.every} would move experts to save traffic, and capped dispatch sends "
            "the same wherever they are; leave moe.migration out, or use dispatch home or copies"
        )


def _unlimited(moe: MoEConfig) -> str:
    """Why a router has no limit for the tokens of a rank, with the remedy."""
    match moe.router:
        case TopKRouterConfig():
            return "moe.router.capacity_factor null sets no limit; set one, such as 1.25, or use dispatch home"
        case SparseOTRouterConfig(potentials=potentials):
            return (
                f"moe.router.potentials {potentials} limits an expert over all ranks, not over each; use potentials "
                "rank, or dispatch home"
            )
    return (
        f"moe.router.kind {moe.router.kind} has no limit; use sparse_ot, expert_choice, base or top_k with "
        "capacity_factor, or dispatch home"
    )


def _check_coherent(config: RunConfig, moe: MoEConfig) -> None:
    if not config.model.moves_tokens:
        raise ValueError(
            f"moe.dispatch: coherent keeps a token on the rank of its expert, and attention in a {config.model.kind} "
            "needs all patches of an image on one rank; use home or copies, or a gpt model"
        )
    drops = _drops(moe)
    if drops is not None:
        raise ValueError(
            f"{drops} leaves tokens without an expert, and in coherent dispatch a token is where its expert is; "
            "use a router that drops none, such as top_k without capacity_factor, or dispatch home"
        )


def _drops(moe: MoEConfig) -> str | None:
    """What makes a router drop tokens, as field and value; None if it drops none."""
    match moe.router:
        case TopKRouterConfig(capacity_factor=float() as factor):
            return f"moe.router.capacity_factor: {factor}"
        case ExpertChoiceRouterConfig(kind=kind):
            return f"moe.router.kind: {kind}"
        case SparseOTRouterConfig(inference_capacity_factor=float() as factor):
            return f"moe.router.inference_capacity_factor: {factor}"
    return None
