"""Two traces on one fabric: what a change of the traced program does to its time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from netsim.errors import InputError
from netsim.results import Results
from netsim.scenario import read_scenario
from netsim.simulate import Progress, simulate
from netsim.workload.gaps import difference, equal_gaps
from netsim.workload.records import read_trace
from netsim.workload.trace import TraceConfig

Gaps = Literal["shared", "own"]


class Pair(NamedTuple):
    """Two simulated traces.

    Args:
        first: The scenario's own trace.
        second: The other one.
        paths: Of both.
        gaps: Whose gaps of computation the second one has, in a sentence.
    """

    first: Results
    second: Results
    paths: tuple[Path, Path]
    gaps: str


def simulate_pair(
    scenario: Path, overrides: Sequence[str], other: Path, *, gaps: Gaps = "shared", jobs: int = 1, progress: Progress
) -> Pair:
    """Simulates a scenario's trace, and another one in its place.

    The second trace takes the gaps of the first if both have the same structure: two recordings differ in their gaps by
    the noise of the machine, and that noise would be taken for an effect of what was changed between them.

    Args:
        scenario: Path of a YAML file whose workload is a trace.
        overrides: ``dotted.key=value`` changes to it.
        other: The other trace.
        gaps: own: every trace keeps its gaps.
        jobs: Processes to use.
        progress: Called when a run starts and when it ends.

    Raises:
        InputError: The scenario or a trace is wrong.
    """
    workload = read_scenario(scenario, overrides).workload
    if not isinstance(workload, TraceConfig):
        problem = "needs a scenario whose one workload is a trace"
        raise InputError("command line", "--against", problem, "give workload.kind=trace and workload.path=FILE")
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
            raise InputError("command line", "--against", problem, "leave workload.steps out")
        changes.append(f"workload.steps=[{','.join(str(wanted[known.index(step)]) for step in workload.steps)}]")
    second = simulate(scenario, overrides=[*overrides, *changes], jobs=jobs, progress=progress)
    return Pair(first, second, (path, other), said)


def _shared(path: Path, other: Path, gaps: Gaps) -> tuple[str, bool]:
    """Whose gaps the second trace has, in a sentence, and whether they must be taken from the first."""
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
    """A path as YAML that stands for nothing else."""
    return "'" + str(path).replace("'", "''") + "'"
