"""How the layers of a network learn the task of each row: from the condition that the network is called with."""

from functools import cache
from typing import Any

from torch import Tensor, nn

from moe.adapters import RowTasks
from trainer.flow.condition import Condition
from trainer.model.network import Network

_ARGUMENT = "tasks_of_rows"


def tell_tasks(network: Network, rows: RowTasks) -> None:
    """Has every pass of a network hand the tasks of its condition to the layers that look at `rows`, in place.

    Each block is handed the tasks as an argument. A block that is computed again in the backward pass, or as one
    compiled graph, then sees those of its own pass, however often the network was called since. The network is neither
    compiled nor prepared by an engine yet.
    """
    vars(network)["row_tasks"] = rows
    network.register_forward_pre_hook(_note, with_kwargs=True)
    network.register_forward_hook(_forget, always_call=True)
    for block in network.blocks:
        vars(block)["row_tasks"] = rows
        block.__class__ = _told(type(block))
        block.register_forward_pre_hook(_hand_on, with_kwargs=True)


def _note(network: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    conditions = (value for value in (*arguments, *named.values()) if isinstance(value, Condition))
    vars(network)["row_tasks"].now = next((condition.task for condition in conditions), None)


def _forget(network: nn.Module, arguments: Any, output: Any) -> None:  # noqa: ARG001
    vars(network)["row_tasks"].now = None


def _hand_on(
    block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return arguments, {**named, _ARGUMENT: vars(block)["row_tasks"].now}


@cache
def _told(kind: type[nn.Module]) -> type[nn.Module]:
    """The same kind of block, which hands its tasks to its layers before it computes.

    A class and no wrapper: names of parameters stay as they are, and a copy of the network is whole.
    """

    class Told(kind):
        def forward(self, *arguments: Any, tasks_of_rows: Tensor | None, **named: Any) -> Any:
            rows: RowTasks = vars(self)["row_tasks"]
            before, rows.now = rows.now, tasks_of_rows
            try:
                return super().forward(*arguments, **named)
            finally:
                rows.now = before

    Told.__name__, Told.__qualname__ = kind.__name__, kind.__qualname__
    return Told
