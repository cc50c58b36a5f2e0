"""Running costs of states, which a control keeps low: the protocol, its implementations, their configuration, `build`.

>>> build(AttentionConfig(subjects=((0, 1), (2, 3))), network)(x, t, condition)  # [B], from 0 to 1
"""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from trainer.flow.cost.attention import AttentionConfig, AttentionCost
from trainer.flow.cost.protocol import RunningCost
from trainer.flow.cost.separation import divergence, separation_cost
from trainer.flow.cost.values import differentiable_values


class OwnCost(OwnClass, frozen=True):
    """A class that keeps `RunningCost`; its constructor may take ``network``.

    The network is called with states, times, conditions and, where there is one, a question of
    :mod:`trainer.flow.question`; without a question it returns its prediction.
    """

    protocol: ClassVar[str] = "trainer.flow.cost.RunningCost"
    passed: ClassVar[tuple[str, ...]] = ("network",)


AnyConfig = AttentionConfig | OwnCost
Config = Annotated[AnyConfig, KindOrClass()]


def build(config: AnyConfig, network: Callable[..., Any]) -> RunningCost:
    """Returns the cost that `config.kind` or `config.class` names.

    Args:
        config: its settings.
        network: of the flow without guidance, which a cost may ask a question of :mod:`trainer.flow.question`.

    Raises:
        ValueError: a user's class refuses its settings or lacks an attribute.
    """
    match config:
        case AttentionConfig():
            return AttentionCost(config, network)
        case OwnCost():
            return build_own(config, network=network)


__all__ = [
    "AnyConfig",
    "AttentionConfig",
    "AttentionCost",
    "Config",
    "OwnCost",
    "RunningCost",
    "build",
    "differentiable_values",
    "divergence",
    "separation_cost",
]
