"""Writes what is generated from the models: JSON Schemas and configs/README.md. `python -m tests.reference` does it."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from netsim.calibration.document import Calibration
from netsim.collective.table import Table
from netsim.foundation.keys import Group, groups
from netsim.foundation.schema import described, described_kinds
from netsim.simulation.scenario import Scenario
from netsim.sweep.sweep_file import SweepConfig
from netsim.topology.kinds import TopologyConfig
from trainer.experiment.schema import IN_FILES, request_schema, run_schema

CONFIGS = Path(__file__).parents[1] / "configs"
PAGE = CONFIGS / "README.md"
FOLDERS = {
    "runs": "complete runs to start from: images, text, points, an autoencoder, and large ones to check and trace",
    "methods": "one file for each method of flow matching, see [methods/README.md](methods/README.md)",
    "requests": "what a trained run is asked for: `python -m trainer restore` or `edit RUN REQUEST`",
    "examples": "your own class: a coupling, a path, a task, a network, a data set, an environment, a control, a cost, "
    "an operator",
    "scenarios": "fabrics, transports and traffic for `python -m netsim compare`",
    "sweeps": "grids of scenarios for `python -m netsim sweep`",
    "calibrations": "measured times of collectives inside hosts, which topologies name",
    "tables": "algorithms of collectives by size, ranks and hosts, which scenarios name",
    "topologies": "fabrics that scenarios name: real ones as `{kind: preset, name: NAME}`, and graphs",
    "docs": "pages beside the READMEs; `make docs` makes a site of all of them",
    "schemas": "JSON Schemas of configurations and of the files that the programs write",
}
INTRODUCTION = """\
# Configurations

This page is generated from the models that read the files (`make schemas`); it lists every key, what it takes, its
default and what it means. On the command line: `python -m trainer keys [PREFIX]` and `python -m netsim keys [PREFIX]`.

A run configuration is YAML. `python -m trainer train FILE key=value ...` replaces single values by their dotted key,
for example `optim.lr=3e-4` or `data.path=/data/shards`. A section without a `kind` has the kind that fits the model,
or else the default one. `python -m trainer check FILE` says what a configuration comes to before anything starts.

Editors that know the YAML language server complete keys, show their meaning and underline mistakes: the first line of
each file here names its schema. Copy it into your own files:

```yaml
# yaml-language-server: $schema=configs/schemas/run.schema.json
```
"""
REQUESTS = """\
`python -m trainer {verb} RUN REQUEST key=value ...` asks a trained run for what a file of [requests/](requests) says;
`python -m trainer keys {verb}` prints this.
"""
SCENARIOS = """\
Rates, sizes and durations are numbers with a unit: `bps`, `kbps`, `Mbps`, `Gbps`, `Tbps`; `B`, `KB`, `MB`, `GB`, `TB`,
`KiB`, `MiB`, `GiB`; `ps`, `ns`, `us`, `ms`, `s`. `N` in a key is the number of a list's entry, from 0.
"""


def schemas() -> dict[str, dict[str, Any]]:
    """The generated schemas by the name of their file."""
    asked = {verb: request_schema(verb) for verb in IN_FILES}
    return {
        "calibration": described(Calibration),
        "run": run_schema(),
        **asked,
        "scenario": Scenario.schema(),
        "sweep": SweepConfig.schema(),
        "table": described(Table),
        "topology": described_kinds(TopologyConfig),
    }


def schema_text(schema: dict[str, Any]) -> str:
    """A schema as its file holds it."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def page(of: dict[str, dict[str, Any]]) -> str:
    """The text of configs/README.md.

    Args:
        of: the schemas.
    """
    parts = (
        (
            "Run configurations",
            "`N` in a key is the number of a list's entry; on the command line a stage is addressed "
            "by its name instead, `stages.NAME.key=value`.\n",
            groups(of["run"]),
        ),
        *((f"Requests of {verb}", REQUESTS.format(verb=verb), groups(of[verb])) for verb in IN_FILES),
        ("Scenarios", SCENARIOS, groups(of["scenario"])),
        ("Sweeps", "", groups(of["sweep"])),
    )
    lines = [INTRODUCTION, "| folder | what is in it |", "| --- | --- |"]
    lines += [f"| [{name}/]({name}) | {what} |" for name, what in FOLDERS.items()]
    lines.append("")
    for title, _, found in parts:
        links = dict.fromkeys(_top(group) for group in found)
        lines.append(f"- [{title}](#{_anchor(title)}): " + ", ".join(_link(title, name) for name in links))
    for title, about, found in parts:
        lines += ["", f"## {title}", *(["", about.rstrip()] if about else [])]
        lines += _chapters(title, found)
    return "\n".join(lines).rstrip() + "\n"


def _top(group: Group) -> str:
    return group.place[0].name if group.place else ""


def _heading(title: str, name: str) -> str:
    return f"{name or 'top level'} ({title.lower()})" if title != "Run configurations" else name or "top level"


def _link(title: str, name: str) -> str:
    return f"[{name or 'top level'}](#{_anchor(_heading(title, name))})"


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _chapters(title: str, found: Sequence[Group]) -> Iterator[str]:
    """A heading for each top-level key, a table for each section and kind below it."""
    before = None
    for group in found:
        top = _top(group)
        if top != before:
            yield from ("", f"### {_heading(title, top)}")
        before = top
        if group.title and group.title != top:
            yield from ("", f"**{group.title}**")
        if group.meaning:
            yield from ("", _cell(group.meaning))
        if group.keys:
            yield from ("", "| key | takes | default | unit | meaning |", "| --- | --- | --- | --- | --- |")
        for key in group.keys:
            cells = (f"`{key.name}`", _cell(key.values), _cell(key.default), key.unit, _cell(key.meaning))
            yield f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """Text that does not end a cell, nor is taken for markup."""
    return re.sub(r"<(?=\w)", "&lt;", text.replace("|", "\\|"))


def main() -> None:
    """Writes the schemas and the page."""
    made = schemas()
    for name, schema in made.items():
        (CONFIGS / "schemas" / f"{name}.schema.json").write_text(schema_text(schema), encoding="utf-8")
    PAGE.write_text(page(made), encoding="utf-8")


if __name__ == "__main__":
    main()
