"""The reference of the keys on a terminal, or one line a key where its output is piped."""

import json
from typing import Any

from netsim.foundation.reference import chosen, show
from netsim.foundation.shipped import SHIPPED

SCHEMAS = SHIPPED / "schemas"
ASKED = ("restore", "edit")
"""Verbs that are asked for something in a file: a prefix that begins with one is of the keys of that file."""


def run(prefix: str | None) -> int:
    """Prints keys of a run configuration, or of a request if its verb begins `prefix`; None: all."""
    verb, _, rest = (prefix or "").partition(".")
    if verb in ASKED:
        show(chosen(_schema(verb), rest or None, f"a request of {verb}"), whole=bool(rest))
    else:
        show(chosen(_schema("run"), prefix, "a run configuration"), whole=prefix is not None)
    return 0


def _schema(name: str) -> dict[str, Any]:
    """The JSON Schema of a document, from its file, which needs no torch, or else from the sections."""
    try:
        return json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    except OSError:
        from trainer.experiment.schema import asked_schema, run_schema

        return run_schema() if name == "run" else asked_schema(name)
