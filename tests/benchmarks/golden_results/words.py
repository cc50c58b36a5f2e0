"""Schemas, help and keys: what a user reads before anything runs."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.benchmarks.golden_results.gold import PROGRAMS, Case, Gold, call
from tests.forked import ROOT
from tests.reference import page, schema_text, schemas

SCHEMAS = ROOT / "configs" / "schemas"


def schema_cases() -> Iterator[Case]:
    """Every schema, and the page of all keys; those that models generate are generated here, not read."""
    yield Case("schemas", _schemas)


def _schemas(gold: Gold, folder: Path) -> None:  # noqa: ARG001
    generated = schemas()
    texts = {path.name.partition(".")[0]: path.read_text("utf-8") for path in SCHEMAS.glob("*.json")}
    for name, text in (texts | {name: schema_text(schema) for name, schema in generated.items()}).items():
        gold.text(f"schema/{name}", text)
    gold.text("page", page(generated))


def help_cases() -> Iterator[Case]:
    """`--help` of every verb, and what the verb keys prints."""
    yield from (Case(f"help/{package}", partial(_help, package)) for package in PROGRAMS)
    yield Case("help/keys", _keys)


def _help(package: str, gold: Gold, folder: Path) -> None:  # noqa: ARG001
    overall = call(package, "--help").stdout
    gold.text("--help", overall)
    for verb in re.findall(r"^    ([a-z][a-z-]*)\b", overall, re.MULTILINE):
        gold.text(verb, call(package, verb, "--help").stdout)


def _keys(gold: Gold, folder: Path) -> None:  # noqa: ARG001
    for package, *prefix in (("trainer",), ("trainer", "restore"), ("trainer", "edit"), ("netsim",)):
        gold.text(" ".join((package, *prefix)), call(package, "keys", *prefix).stdout)
