"""Which parts of a flow can be combined, and which partners each of them has."""

from trainer.flow.composition.parts import (
    ALTERNATIVES,
    Composition,
    follows_score,
    has_one_step_map,
    has_own_noise,
    kinds_without_noise,
    listed,
    name,
)
from trainer.flow.composition.rules import ADVICE, RULES, STEEP_END, Rule
from trainer.flow.composition.verdict import complaint, partners, warning

__all__ = [
    "ADVICE",
    "ALTERNATIVES",
    "RULES",
    "STEEP_END",
    "Composition",
    "Rule",
    "complaint",
    "follows_score",
    "has_one_step_map",
    "has_own_noise",
    "kinds_without_noise",
    "listed",
    "name",
    "partners",
    "warning",
]
