"""Objectives of training: the protocol, and the union `Config` of its kinds."""

from typing import Annotated, Any, ClassVar, cast

from pydantic import BeforeValidator

from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from trainer.flow.objective.cross_entropy import CrossEntropy
from trainer.flow.objective.distillation import ConsistencyDistillation, VelocityDistillation
from trainer.flow.objective.encoded_source import EncodedSource
from trainer.flow.objective.monge import MongeGap, MongeMap, Regularised
from trainer.flow.objective.protocol import BuiltIn, LossTerms, Model, Objective, ObjectiveInputs, Teacher
from trainer.flow.objective.regression import (
    Aligned,
    CausalTransition,
    FeatureResidual,
    PseudoHuber,
    Regression,
    Spread,
    Squared,
    Transition,
)


class OwnObjective(OwnClass, frozen=True):
    """A class that keeps `Objective`; its constructor may take ``target`` and ``path``."""

    protocol: ClassVar[str] = "trainer.flow.objective.Objective"
    passed: ClassVar[tuple[str, ...]] = ("target", "path")

    def build(self, inputs: ObjectiveInputs) -> Objective:
        made = build_own(self, target=inputs.target, path=inputs.path)
        return cast(Objective, made.build(inputs)) if isinstance(made, BuiltIn) else made


AnyConfig = (
    Regression
    | Aligned
    | FeatureResidual
    | MongeMap
    | VelocityDistillation
    | ConsistencyDistillation
    | Transition
    | CausalTransition
    | CrossEntropy
    | EncodedSource
    | OwnObjective
)


def _regression_by_default(document: Any) -> Any:
    of_no_kind = isinstance(document, dict) and "class" not in document
    return {"kind": "regression", **document} if of_no_kind else document


Config = Annotated[AnyConfig, KindOrClass(), BeforeValidator(_regression_by_default)]
