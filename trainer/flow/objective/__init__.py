"""Objectives of training: the protocol, its implementations, their configuration and `build`."""

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator

from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from trainer.flow.chain import Chain
from trainer.flow.objective.aligned import Aligned, AlignedConfig, Teacher
from trainer.flow.objective.causal_transition import CausalTransition, CausalTransitionConfig
from trainer.flow.objective.distillation import (
    ConsistencyDistillation,
    ConsistencyDistillationConfig,
    VelocityDistillation,
    VelocityDistillationConfig,
)
from trainer.flow.objective.feature_residual import FeatureResidual, FeatureResidualConfig
from trainer.flow.objective.monge_map import MongeGapConfig, MongeMap, MongeMapConfig, Regularised
from trainer.flow.objective.protocol import FrozenFlow, LossTerms, Model, Objective
from trainer.flow.objective.regression import PseudoHuberConfig, Regression, RegressionConfig, SquaredConfig
from trainer.flow.objective.transition import Transition, TransitionConfig
from trainer.flow.path.protocol import Path
from trainer.flow.target import Target


class OwnObjective(OwnClass, frozen=True):
    """A class that keeps `Objective`; its constructor may take ``target`` and ``path``."""

    protocol: ClassVar[str] = "trainer.flow.objective.Objective"
    passed: ClassVar[tuple[str, ...]] = ("target", "path")


AnyConfig = (
    RegressionConfig
    | AlignedConfig
    | FeatureResidualConfig
    | MongeMapConfig
    | VelocityDistillationConfig
    | ConsistencyDistillationConfig
    | TransitionConfig
    | CausalTransitionConfig
    | OwnObjective
)


def _regression_by_default(document: Any) -> Any:
    of_no_kind = isinstance(document, dict) and "class" not in document
    return {"kind": "regression", **document} if of_no_kind else document


Config = Annotated[AnyConfig, KindOrClass(), BeforeValidator(_regression_by_default)]


def build(
    config: AnyConfig,
    *,
    target: Target,
    path: Path | None = None,
    teacher: Teacher | None = None,
    reference: FrozenFlow | None = None,
    chain: Chain | None = None,
    tokens: int = 1,
) -> Objective:
    """The objective that `config.kind` or `config.class` names.

    Args:
        config: settings.
        target: the quantity that the network predicts.
        path: of the pairs; a `FeatureResidual` needs it.
        teacher: computes features of the data; an `Aligned` objective needs it.
        reference: the flow of another run; an objective whose settings name one needs it.
        chain: the states that the network draws; a `CausalTransition` needs it.
        tokens: of a state, for an objective that draws by token.
    """
    match config:
        case RegressionConfig(monge_gap=MongeGapConfig() as gap):
            return Regularised(Regression(target, config), target, gap)
        case RegressionConfig():
            return Regression(target, config)
        case AlignedConfig():
            assert teacher is not None
            return Aligned(target, teacher, config)
        case FeatureResidualConfig():
            assert path is not None
            return FeatureResidual(path)
        case MongeMapConfig():
            return MongeMap(target, config)
        case VelocityDistillationConfig():
            assert reference is not None
            return VelocityDistillation(reference, config)
        case ConsistencyDistillationConfig():
            assert reference is not None
            return ConsistencyDistillation(reference, config)
        case CausalTransitionConfig():
            assert chain is not None
            return CausalTransition(chain, config)
        case TransitionConfig():
            return Transition(config, tokens=tokens)
        case OwnObjective():
            return build_own(config, target=target, path=path)


__all__ = [
    "Aligned",
    "AlignedConfig",
    "AnyConfig",
    "CausalTransition",
    "CausalTransitionConfig",
    "Config",
    "ConsistencyDistillation",
    "ConsistencyDistillationConfig",
    "FeatureResidual",
    "FeatureResidualConfig",
    "FrozenFlow",
    "LossTerms",
    "Model",
    "MongeGapConfig",
    "MongeMap",
    "MongeMapConfig",
    "Objective",
    "OwnObjective",
    "PseudoHuberConfig",
    "Regression",
    "RegressionConfig",
    "Regularised",
    "SquaredConfig",
    "Teacher",
    "Transition",
    "TransitionConfig",
    "VelocityDistillation",
    "VelocityDistillationConfig",
    "build",
]
