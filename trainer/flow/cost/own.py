"""Costs that are classes of a user's, see `moe.validation.own_class`."""

from typing import ClassVar

from moe.validation.own_class import OwnClass


class OwnCost(OwnClass, frozen=True):
    """A class that keeps `trainer.flow.cost.RunningCost`; its constructor may take ``network``.

    The network is called with states, times, conditions and, where there is one, a question of
    :mod:`trainer.flow.question`; without a question it returns its prediction.
    """

    protocol: ClassVar[str] = "trainer.flow.cost.RunningCost"
    passed: ClassVar[tuple[str, ...]] = ("network",)
