"""The reference of the keys on a terminal, or one line a key where its output is piped."""

import json
from typing import Any

from trainer.config.shipped import SHIPPED
from trainer.experiment.keys.table import chosen, show

SCHEMA = SHIPPED / "schemas" / "run.schema.json"


def run(prefix: str | None) -> int:
    """Prints the keys of a run configuration.

    Args:
        prefix: dotted, such as ``optim`` or ``data.shards``; None: print all, with the first sentence of each meaning.

    Raises:
        ValueError: no key begins so.
    """
    show(chosen(run_schema(), prefix, "a run configuration"), whole=prefix is not None)
    return 0


def run_schema() -> dict[str, Any]:
    """The JSON Schema of a run configuration, from its file, which needs no torch, or else from the sections."""
    try:
        return json.loads(SCHEMA.read_text(encoding="utf-8"))
    except OSError:
        from trainer.experiment.keys.schema import run_schema as made

        return made()
