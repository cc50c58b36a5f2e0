"""Alternatives to parts of a flow that do not go together, for messages."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from pydantic import BaseModel

from trainer.config.rules.composition import (
    ALTERNATIVES,
    OF_LETTERS,
    PATHS,
    Composition,
    Reasons,
    built,
    open_at_the_data,
    open_at_the_source,
    reasons,
)
from trainer.flow import coupling

KEYS = {"sampler": "sample.sampler.kind", "controls": "sample.controls"}

Rule = Callable[[Composition], Reasons]
ADVICE: tuple[Rule, ...] = (open_at_the_source, open_at_the_data)
"""Combinations that are allowed, since they work with hundreds of steps and a good network, but badly otherwise."""


def objections(parts: Composition) -> Iterator[tuple[str, str, str]]:
    """Yields the objections to a composition: field, problem with the parts, and all partners."""
    for named, reason in separate(reasons(parts)):
        yield _objection(parts, named, "does not go with", reason)


def separate(broken: Reasons) -> Reasons:
    """Yields the reasons, except those that repeat an earlier one or whose parts include all of an earlier one's."""
    known: list[tuple[tuple[str, ...], str]] = []
    for named, reason in broken:
        if not any(reason == other or set(about) <= set(named) for about, other in known):
            known.append((named, reason))
            yield named, reason


def advice(parts: Composition, rules: Sequence[Rule] = ADVICE) -> Iterator[tuple[str, str, str]]:
    """Yields why a composition without objections works badly: field, problem and all partners."""
    for rule in rules:
        for named, reason in rule(parts):
            yield _objection(parts, named, "goes badly with", reason, rule)


def partners(parts: Composition, named: tuple[str, ...], *also: Rule) -> dict[str, list[Any]]:
    """The alternatives to each of the `named` parts to which nothing objects; rules about other parts do not count."""

    def fits(other: Composition) -> bool:
        broken = chain.from_iterable(rule(other) for rule in (reasons, *also))
        return not any(set(about) <= set(named) for about, _ in broken)

    of_letters = any(
        isinstance(one, OF_LETTERS) for one in (parts.path, parts.target, parts.objective, *parts.controls)
    )
    among = {
        part: [one for one in ALTERNATIVES[part] if of_letters or not isinstance(one, OF_LETTERS)] for part in named
    }
    if isinstance(parts.coupling, coupling.Ends) and "coupling" in among:
        among["coupling"] = []  # reactions have no other
    fitting = {part: [one for one in among[part] if fits(replace(parts, **{part: one}))] for part in named}
    return {part: ones for part, ones in fitting.items() if ones}


def _objection(
    parts: Composition, named: tuple[str, ...], problem: str, reason: str, *also: Rule
) -> tuple[str, str, str]:
    fields = {part: KEYS.get(part, f"flow.{part}.kind") for part in named}
    kinds = {part: name(getattr(parts, part)) for part in named}
    blamed, *others = named
    company = " and ".join(f"{fields[part]} {kinds[part]}" for part in others)
    fitting = partners(parts, named, *also).items()
    remedies = [f"{fields[part]} {listed([name(one) for one in ones])}" for part, ones in fitting]
    return fields[blamed], f"{kinds[blamed]} {problem} {company} ({reason})", f"use {', or '.join(remedies)}"


def name(config: BaseModel | tuple[BaseModel, ...]) -> str:
    """The kind of a part, and the settings that differ from its defaults; of each part of a list."""
    if isinstance(config, tuple):
        return f"[{', '.join(map(name, config))}]"
    fields = type(config).model_fields
    kind, *settings = (getattr(config, field, None) for field in ("kind", *fields))
    changed = {
        field: getattr(value, "kind", value)
        for (field, about), value in zip(fields.items(), settings, strict=True)
        if not about.is_required() and value != about.get_default(call_default_factory=True)
    }
    return f"{kind} ({', '.join(f'{field}={value}' for field, value in changed.items())})" if changed else str(kind)


def kinds_without_noise() -> list[str]:
    """The kinds of path that add no noise of their own."""
    return [name(one) for one in PATHS if not built(one).has_noise]


def listed(names: Sequence[str]) -> str:
    """Names joined by commas and "or"."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
