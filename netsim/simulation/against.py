"""Two simulations side by side: of a scenario with its own and with another trace, or with and without a change."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from netsim.foundation.refusal import Refusal
from netsim.simulation.compare import Progress, simulate
from netsim.simulation.results import Pair
from netsim.simulation.scenario import read_scenario
from netsim.workload.matching import difference, equal_gaps
from netsim.workload.records import read_trace
from netsim.workload.trace import TraceConfig

Gaps = Literal["shared", "own"]


def simulate_change(
    scenario: Path, overrides: Sequence[str], change: str, *, jobs: int = 1, progress: Progress
) -> Pair:
    """Simulates a scenario, and the same scenario with the override `change`."""
    changed = [*overrides, change]
    both = [read_scenario(scenario, these) for these in (overrides, changed)]
    if both[0] == both[1]:
        problem = f"{change} changes nothing"
        raise Refusal("command line", "--against", problem, "give another value than the scenario has")
    one, other = ([transport.name for transport in read.transports] for read in both)
    if one != other:
        problem = f"{change} leaves other transports to compare ({', '.join(other)}; before {', '.join(one)})"
        raise Refusal("command line", "--against", problem, "change something else; one scenario compares transports")
    first, second = (
        simulate(scenario, overrides=these, jobs=jobs, progress=progress) for these in (overrides, changed)
    )
    names = Path(scenario).stem, change
    return Pair(first, second, names, f"The second is the same scenario with {change}.")


def simulate_pair(
    scenario: Path, overrides: Sequence[str], other: Path, *, gaps: Gaps = "shared", jobs: int = 1, progress: Progress
) -> Pair:
    """Simulates a scenario twice: with the trace that it names, and with the trace `other` in its place.

    The second trace takes the gaps of the first if both have the same structure: two recordings differ in their gaps by
    the noise of the machine, and that noise would be taken for an effect of what was changed between them.
    """
    workload = read_scenario(scenario, overrides).workload
    if not isinstance(workload, TraceConfig):
        problem = "needs a scenario whose one workload is a trace"
        raise Refusal("command line", "--against", problem, "give workload.kind=trace and workload.path=FILE")
    path = Path(workload.path)
    said, shared = _shared(path, other, gaps)
    changes = [f"workload.path={_quoted(other)}"]
    if shared and workload.gaps is None:
        changes.append(f"workload.gaps={_quoted(path)}")
    first = simulate(scenario, overrides=overrides, jobs=jobs, progress=progress)
    if workload.steps != "all":
        known, wanted = (read_trace(trace).header.steps for trace in (path, other))
        if len(known) != len(wanted) or not set(workload.steps) <= set(known):
            problem = f"{other} has other steps than {path}, of which workload.steps takes some"
            raise Refusal("command line", "--against", problem, "leave workload.steps out")
        changes.append(f"workload.steps=[{','.join(str(wanted[known.index(step)]) for step in workload.steps)}]")
    second = simulate(scenario, overrides=[*overrides, *changes], jobs=jobs, progress=progress)
    names = (path.name, other.name) if path.name != other.name else (str(path), str(other))
    return Pair(first, second, names, said)


def _shared(path: Path, other: Path, gaps: Gaps) -> tuple[str, bool]:
    """Returns a sentence on whose gaps the second trace has, and whether to take them from the first trace."""
    traces = read_trace(path), read_trace(other)
    noise = "; part of the difference may be noise of the machine"
    if gaps == "own":
        return f"Each trace keeps its own gaps of computation, as --gaps own asks{noise}.", False
    differs = difference(*traces)
    if differs is not None:
        return f"Each trace keeps its own gaps of computation, since their structures differ ({differs}){noise}.", False
    if equal_gaps(*traces):
        return "Both traces have the same gaps of computation, so the difference is that of their traffic.", False
    return f"Both have the gaps of computation of {path.name}, so the difference is that of their traffic.", True


def _quoted(path: Path) -> str:
    """Returns a path as a quoted YAML string, in which nothing counts as YAML syntax."""
    return "'" + str(path).replace("'", "''") + "'"
