"""The groups of cases, quick ones first."""

from collections.abc import Callable, Iterator

from tests.benchmarks.golden_results.fabrics import large_cases, netsim_cases
from tests.benchmarks.golden_results.gold import Case
from tests.benchmarks.golden_results.placements import moe_cases
from tests.benchmarks.golden_results.runs import check_cases, trace_cases, verb_cases
from tests.benchmarks.golden_results.words import help_cases, schema_cases

GROUPS: dict[str, Callable[[], Iterator[Case]]] = {
    "schemas": schema_cases,
    "help": help_cases,
    "moe": moe_cases,
    "check": check_cases,
    "traces": trace_cases,
    "verbs": verb_cases,
    "netsim": netsim_cases,
    "large": large_cases,
}
"""large is computed only where it is named."""
