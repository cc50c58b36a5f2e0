"""Pairs of source and data points: the protocol, its implementations, their configuration and `build`."""

from typing import Annotated

from netsim.foundation.own_class import KindOrClass, build_own
from trainer.flow.coupling.assignment import Assignment, AssignmentConfig
from trainer.flow.coupling.gibbs_weighted import GibbsWeighted, GibbsWeightedConfig
from trainer.flow.coupling.independent import Independent, IndependentConfig
from trainer.flow.coupling.knn import KNN, KNNConfig
from trainer.flow.coupling.matched import Match, Matched, Matching
from trainer.flow.coupling.minibatch_ot import Entropic, MinibatchOTConfig, matching
from trainer.flow.coupling.paired import Paired, PairedConfig
from trainer.flow.coupling.protocol import Coupling, Pairs
from trainer.flow.own import OwnCoupling

Config = Annotated[
    IndependentConfig
    | MinibatchOTConfig
    | GibbsWeightedConfig
    | AssignmentConfig
    | KNNConfig
    | PairedConfig
    | OwnCoupling,
    KindOrClass(),
]


def build(config: Config) -> Coupling:
    """Returns the coupling that `config.kind` or `config.class` names."""
    match config:
        case IndependentConfig():
            return Independent()
        case MinibatchOTConfig():
            return Matched(matching(config), config.scope)
        case GibbsWeightedConfig():
            epsilon = None if config.epsilon == "auto" else config.epsilon
            return GibbsWeighted(config.cost, epsilon, config.share, config.kappa)
        case AssignmentConfig():
            return Matched(Assignment("l2"), config.scope)
        case KNNConfig():
            return KNN(config.k)
        case PairedConfig():
            return Paired()
        case OwnCoupling():
            return build_own(config)


__all__ = [
    "KNN",
    "Assignment",
    "AssignmentConfig",
    "Config",
    "Coupling",
    "Entropic",
    "GibbsWeighted",
    "GibbsWeightedConfig",
    "Independent",
    "IndependentConfig",
    "KNNConfig",
    "Match",
    "Matched",
    "Matching",
    "MinibatchOTConfig",
    "OwnCoupling",
    "Paired",
    "PairedConfig",
    "Pairs",
    "build",
]
