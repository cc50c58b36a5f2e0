"""What to do after each verb: a command line that can be copied."""

import sys
from collections.abc import Mapping
from typing import Any

FOLLOWING = {
    "place": "python -m moe price TRACE.jsonl --routing {source} --placement {out} "
    "--scenario configs/scenarios/two_nodes.yaml --out {out}.price",
    "replay": "python -m netsim compare configs/scenarios/two_nodes.yaml workload.path={out} --out {out}.simulated",
    "price": "python -m moe export {placement} --to sglang {out}/sglang.json",
    "record": "python -m moe place {out} --nodes 2 --ranks-per-node 8 --out {out}.placement.json",
    "export": "python -m moe import --help",
    "import": "python -m moe export --help",
}
"""By the name of the verb; options stand in braces."""


def show(template: str | None, values: Mapping[str, Any]) -> None:
    """Prints a command line to a person at a terminal; a script has its own."""
    if template is not None and sys.stderr.isatty():
        print(f"next: {template.format(**values)}", file=sys.stderr)
