"""The first complaint about a composition, and the partners that its parts could have instead.

The partners are found by replacing a part with every other kind and checking the same rules again, so that there is no
list of them to keep.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from trainer.flow.composition.parts import ALTERNATIVES, Composition, listed, name
from trainer.flow.composition.rules import ADVICE, RULES, Rule

KEYS = {"sampler": "sample.sampler.kind", "controls": "sample.controls"}
"""The key of a part in a configuration, if it is not the kind of a section of flow."""


def complaint(composition: Composition) -> str | None:
    """The first complaint about a composition, with all partners; None: its parts go together."""
    for rule in RULES:
        reason = rule.complaint(composition)
        if reason is not None:
            return _message(composition, rule, "does not go with", reason)
    return None


def warning(composition: Composition, advice: Sequence[Rule] = ADVICE) -> str | None:
    """The first reason why a composition without complaint works badly, with all partners; None: there is none."""
    for rule in advice:
        reason = rule.complaint(composition)
        if reason is not None:
            return _message(composition, rule, "goes badly with", reason)
    return None


def partners(composition: Composition, rule: Rule) -> dict[str, list[Any]]:
    """The alternatives to each part of a broken rule that satisfy it, and all rules about no other parts."""
    own = [*(other for other in RULES if set(other.parts) <= set(rule.parts)), rule]
    fitting: dict[str, list[Any]] = {}
    for part in rule.parts:
        accepted = [
            one
            for one in ALTERNATIVES[part]
            if not any(rule.complaint(replace(composition, **{part: one})) for rule in own)
        ]
        if accepted:
            fitting[part] = accepted
    return fitting


def _message(composition: Composition, rule: Rule, verdict: str, reason: str) -> str:
    named = {part: name(getattr(composition, part)) for part in rule.parts}
    blamed, *others = rule.parts
    company = " and ".join(f"{_field(part)} {named[part]}" for part in others)
    fitting = partners(composition, rule).items()
    remedies = [f"{_field(part)} {listed([name(one) for one in ones])}" for part, ones in fitting]
    return f"{_field(blamed)}: {named[blamed]} {verdict} {company} ({reason}); use {', or '.join(remedies)}"


def _field(part: str) -> str:
    return KEYS.get(part, f"flow.{part}.kind")
