"""Models and routers whose tokens cannot stay with their experts."""

from moe.config import ExpertChoiceRouterConfig, MoEConfig, SparseOTRouterConfig, TopKRouterConfig
from trainer.config.run import RunConfig


def check_dispatch(config: RunConfig) -> None:
    """Refuses context-coherent dispatch where a token cannot stay on the rank of its expert.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    if config.moe is None or config.moe.dispatch != "coherent":
        return
    if not config.model.moves_tokens:
        raise ValueError(
            f"moe.dispatch: coherent keeps a token on the rank of its expert, and attention in a {config.model.kind} "
            "needs all patches of an image on one rank; use home or copies, or a gpt model"
        )
    drops = _drops(config.moe)
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
