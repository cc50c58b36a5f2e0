"""One name for each process group of a trace, the same for recorded and for computed traces."""

from collections.abc import Iterable

Ranks = tuple[int, ...]


def canonical_names(groups: Iterable[tuple[str, Ranks]]) -> dict[tuple[str, Ranks], str]:
    """Names for (meaning, ranks), ordered by meaning, then ascending global ranks.

    A meaning that stands for one set of ranks keeps its name (data); one that stands for several is numbered in the
    order of their ranks (expert_0, expert_1, ...). Groups of different meaning stay apart even where their ranks are
    the same; groups of the same meaning and ranks are one.
    """
    by_meaning: dict[str, set[Ranks]] = {}
    for meaning, ranks in groups:
        by_meaning.setdefault(meaning, set()).add(ranks)
    return {
        (meaning, ranks): meaning if len(by_meaning[meaning]) == 1 else f"{meaning}_{index}"
        for meaning in sorted(by_meaning)
        for index, ranks in enumerate(sorted(by_meaning[meaning]))
    }
