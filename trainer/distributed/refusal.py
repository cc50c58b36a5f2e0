"""A start that every rank gives up, because what the ranks were given is wrong or differs."""

from pathlib import Path

from netsim.foundation.refusal import Refusal


class StartRefused(ValueError):  # noqa: N818  it is what has happened
    """Wrong input that all ranks have been told of; to start them again would change nothing.

    The message is a whole line, which names what is wrong and where.
    """


class RanksMissing(RuntimeError):  # noqa: N818  it is what has happened
    """Ranks that did not come, or did not answer in time; they may come when they are started again."""


def located(error: ValueError, path: Path | None) -> str:
    """An error's line, with the name of a file, or of the wrong option of the command line; `path` if neither."""
    text = " ".join(str(error).split())
    named = isinstance(error, Refusal | StartRefused) or text.startswith("--") or path is None
    return text if named else f"{path}: {text}"
