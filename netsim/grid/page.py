"""The page about a sweep: a table of all cells and transports."""

from collections.abc import Mapping, Sequence
from typing import Any

from netsim.report.page import Section, page, table


def sweep_page(cells: Sequence[tuple[dict[str, str], dict[str, Any]]]) -> str:
    """One page comparing all cells.

    Args:
        cells: Of each what it changes, and its results.json.
    """
    keys = list(dict.fromkeys(key for overrides, _ in cells for key in overrides))
    rows = [
        [*(overrides.get(key, "") for key in keys), transport, f"{mean_us:,.1f}", f"+{100 * above:.1f} %"]
        for overrides, results in cells
        for transport, (mean_us, above) in _means(results).items()
    ]
    head = [*keys, "transport", "completion, mean (µs)", "above bound"]
    return page(f"{len(cells)} scenarios", [Section("", table(head, rows))])


def _means(results: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Mean completion and how far it is above the mean bound, for each transport."""
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for run in results["runs"]:
        runs.setdefault(run["transport"], []).append(run)
    means = {}
    for transport, seeds in runs.items():
        completion, bound = (sum(run[key] for run in seeds) for key in ("completion_ns", "bound_ns"))
        means[transport] = completion / len(seeds) / 1000, completion / bound - 1 if bound else 0.0
    return means
