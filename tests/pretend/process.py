"""Processes in which the pretend device exists, so that no other test sees it."""

from collections.abc import Callable
from typing import Any

from tests.pretend.device import register
from tests.ranks import run_ranks


def on_device(function: Callable[..., Any], world_size: int, *arguments: Any) -> list[Any]:
    """Calls ``function(*arguments)`` on ranks that talk over gloo and have the device.

    Args:
        function: importable by name.
        world_size: number of processes.
        *arguments: plain values.

    Returns:
        What each rank returned, by rank; plain values.
    """
    return run_ranks(_registered, world_size, function, arguments)


def _registered(_rank: int, _world_size: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    register()
    return function(*arguments)
