"""A terminal on which text is text: a path or a setting such as ``[bold]`` is printed as it is written."""

from typing import Any

from rich.console import Console, RenderableType
from rich.status import Status
from rich.text import Text


class Terminal(Console):
    """A console of rich that reads no markup and no names of emoji in what it prints.

    Args:
        **options: of `rich.console.Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def status(self, status: RenderableType, **options: Any) -> Status:
        """A spinner with a line, which may be replaced by ``update``."""
        return _Plain(status, console=self, **options)


class _Plain(Status):
    def __init__(self, status: RenderableType, **options: Any) -> None:
        super().__init__(_text(status), **options)

    def update(self, status: RenderableType | None = None, **options: Any) -> None:
        super().update(None if status is None else _text(status), **options)


def _text(status: RenderableType) -> RenderableType:
    return Text(status) if isinstance(status, str) else status
