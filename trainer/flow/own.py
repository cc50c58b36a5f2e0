"""Parts of a flow that are classes of a user's, see `netsim.foundation.own_class`."""

from typing import ClassVar

from netsim.foundation.own_class import OwnClass


class OwnPath(OwnClass, frozen=True):
    """A class that keeps `trainer.flow.path.Path`."""

    protocol: ClassVar[str] = "trainer.flow.path.Path"


class OwnTarget(OwnClass, frozen=True):
    """A class that keeps `trainer.flow.target.Target`; its constructor may take ``path``."""

    protocol: ClassVar[str] = "trainer.flow.target.Target"
    passed: ClassVar[tuple[str, ...]] = ("path",)


class OwnObjective(OwnClass, frozen=True):
    """A class that keeps `trainer.flow.objective.Objective`; its constructor may take ``target`` and ``path``."""

    protocol: ClassVar[str] = "trainer.flow.objective.Objective"
    passed: ClassVar[tuple[str, ...]] = ("target", "path")


class OwnSampler(OwnClass, frozen=True):
    """A class that keeps `trainer.flow.sampler.Sampler`; its constructor may take ``path``.

    A setting ``steps`` is the number of equal steps from source to data; a class without it chooses its steps itself.
    """

    protocol: ClassVar[str] = "trainer.flow.sampler.Sampler"
    passed: ClassVar[tuple[str, ...]] = ("path",)


class OwnControl(OwnClass, frozen=True):
    """A class that keeps `trainer.flow.control.Control`; its constructor may take any part of `ControlInputs`.

    A parameter ``picture`` without a default says that the control acts by pictures.
    """

    protocol: ClassVar[str] = "trainer.flow.control.Control"
    passed: ClassVar[tuple[str, ...]] = ("path", "condition", "network", "picture", "mask")


class OwnOperator(OwnClass, frozen=True):
    """A class that keeps `trainer.flow.operator.Operator`.

    Its constructor may take ``shape``, (C, H, W) of an image, ``numbers``, int64 [B] of the images that it will be
    applied to, and their ``device``. It is tried on random images before it is used.
    """

    protocol: ClassVar[str] = "trainer.flow.operator.Operator"
    passed: ClassVar[tuple[str, ...]] = ("shape", "numbers", "device")


class OwnCost(OwnClass, frozen=True):
    """A class that keeps `trainer.flow.cost.RunningCost`; its constructor may take ``network``.

    The network is called with states, times, conditions and, where there is one, a question of
    :mod:`trainer.flow.question`; without a question it returns its prediction.
    """

    protocol: ClassVar[str] = "trainer.flow.cost.RunningCost"
    passed: ClassVar[tuple[str, ...]] = ("network",)


class OwnReward(OwnClass, frozen=True):
    """A class that keeps `trainer.flow.reward.Reward`; its constructor may take any part of `RewardInputs`."""

    protocol: ClassVar[str] = "trainer.flow.reward.Reward"
    passed: ClassVar[tuple[str, ...]] = ("shape", "num_classes", "labelled", "seed")
