"""Which objectives train which networks."""

from netsim.foundation.own_class import OwnClass
from netsim.foundation.settings import kind_of, sections_in
from trainer.config.model import AnyNetworkConfig, NetworkConfig
from trainer.config.run import RunConfig

OBJECTIVES = {
    str(kind_of(network)): network.objective_kinds
    for network in sections_in(AnyNetworkConfig)
    if issubclass(network, NetworkConfig)
}
"""The objectives that train no other network, by the kind of each network."""


def check_objective(config: RunConfig) -> None:
    """Refuses an objective that asks a network for what it does not compute; a class of a user's may ask for anything.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    if config.flow is None or isinstance(config.flow.objective, OwnClass):
        return
    kind, model = config.flow.objective.kind, config.model
    if model.objective_kinds and kind not in model.objective_kinds:
        raise ValueError(
            f"flow.objective.kind: {kind} asks for a prediction, and a {model.kind} model draws by its head; "
            f"use {' or '.join(model.objective_kinds)}, or model.kind dit or mlp"
        )
    owners = [network for network, kinds in OBJECTIVES.items() if kind in kinds]
    if owners and kind not in model.objective_kinds:
        raise ValueError(
            f"flow.objective.kind: {kind} trains a head, which a {model.kind} model lacks; "
            f"use model.kind {' or '.join(owners)}, or another objective such as regression"
        )
