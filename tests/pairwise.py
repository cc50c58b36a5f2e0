"""Combinations of values in which every two values of different kinds meet."""

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any


def pairwise_cover(*kinds: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Few rows with a value of each kind: any two values of two kinds stand in one of them together."""
    values = [list(kind) for kind in kinds]
    places = list(combinations(range(len(values)), 2))
    rows = list(product(*(range(len(kind)) for kind in values)))
    missing = {(i, row[i], j, row[j]) for row in rows for i, j in places}
    chosen = []
    while missing:
        best = max(rows, key=lambda row: sum((i, row[i], j, row[j]) in missing for i, j in places))
        missing -= {(i, best[i], j, best[j]) for i, j in places}
        chosen.append(tuple(kind[place] for kind, place in zip(values, best, strict=True)))
    return chosen
