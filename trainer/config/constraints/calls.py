"""How a run calls its network, where its task says so: what formulas count."""

from typing import Any

from netsim.foundation.own_class import OwnClass
from trainer.config.run import RunConfig
from trainer.config.task import Calls


def calls_of(config: RunConfig) -> tuple[Calls, ...] | None:
    """The calls that the task of a run makes for every micro batch; None: a class of a user's that does not say.

    A class says so by an attribute or a setting ``calls``.

    Args:
        config: the run.

    Raises:
        ValueError: the calls of a user's class are none.
    """
    calls = _told(config, "calls", None)
    if calls is None:
        return None
    if not isinstance(calls, tuple | list) or not all(isinstance(one, Calls) for one in calls):
        raise ValueError(
            f"task.class: calls of {config.task.kind} are {calls!r:.60}; give a tuple of trainer.config.task.Calls"
        )
    return tuple(calls)


def passes_of(config: RunConfig) -> int:
    """Losses that the task of a run cuts a micro batch into.

    Args:
        config: the run.
    """
    return _told(config, "passes", 1)


def replays_of(config: RunConfig) -> bool:
    """Whether the routers of a run's losses choose what those of its rollouts chose.

    Args:
        config: the run.
    """
    return _told(config, "replays", False)


def weighs(config: RunConfig) -> bool:
    """Whether what the task of a run collects has weights.

    Args:
        config: the run.
    """
    return _told(config, "weighs", False)


def _told(config: RunConfig, name: str, default: Any) -> Any:
    """What a task says of itself by a setting, or by an attribute of a user's class."""
    if not isinstance(config.task, OwnClass):
        return getattr(config.task, name)
    return config.task.setting(name, getattr(config.task.imported(), name, default))
