"""Files that belong to a run: every input of a report is matched with the run by digest, or refused."""

from functools import cached_property
from pathlib import Path

from moe.collective_trace import TraceHeader, read
from moe.routing_trace import RoutingTrace
from netsim.foundation.files import file_digest
from netsim.foundation.refusal import Refusal
from trainer.checkpoint.contents import identity_digest
from trainer.config.file import load_run
from trainer.config.run import RunConfig
from trainer.experiment.report.simulation import Simulation
from trainer.experiment.stage.running import difference, flat
from trainer.observe.metrics import Record, read_metrics

_LATER = ("optim.steps", "checkpoint", "evaluate", "sample", "trace", "observe", "guard", "run.dir", "run.resume")
"""Settings in which two continuations of one run may differ."""
_PLACED = ("moe.placement", "moe.migration")


class RunFiles:
    """A run's folder, and what identifies the run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def trace(self) -> Path:
        """The recorded collective trace."""
        return self.folder / "traces" / "collectives.jsonl"

    @property
    def routing(self) -> Path:
        """The routing trace."""
        return self.folder / "traces" / "routing.npz"

    @cached_property
    def records(self) -> list[Record]:
        """The lines of metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        records = read_metrics(path)
        if not records:
            raise Refusal(path, "records", "there are none", "train the run first")
        for number, record in enumerate(records, start=1):
            if "loss" not in record.values:
                raise Refusal(path, f"line {number}: loss", "is missing", "give the metrics.jsonl of a run")
        return records

    @cached_property
    def config(self) -> RunConfig:
        """The run's configuration."""
        return load_run(self.folder)

    @cached_property
    def identity(self) -> str | None:
        """Hash of what all continuations of the run share; None where its configuration is not known."""
        return identity_digest(self.config) if (self.folder / "config.yaml").exists() else None

    @cached_property
    def header(self) -> TraceHeader | None:
        """Header of the recorded trace; None where nothing was recorded."""
        return read(self.trace)[0] if self.trace.exists() else None

    @cached_property
    def digests(self) -> set[str]:
        """Hashes of the configurations that the run has had: that of its trace, and the present one."""
        recorded = {self.header.config_sha256} if self.header is not None and self.header.config_sha256 else set()
        present = {self.config.digest} if (self.folder / "config.yaml").exists() else set()
        return recorded | present

    def check_simulation(self, path: Path, simulation: Simulation) -> None:
        """Refuses a simulation of another run's traffic."""
        remedy = f"simulate {self.trace} or a replay of it, or give the folder as --other-simulation"
        if not simulation.traces:
            raise Refusal(path, "traces", f"is missing: it is not known to be the traffic of {self.folder}", remedy)
        for index, trace in enumerate(simulation.traces):
            own = self.trace.exists() and trace.sha256 == file_digest(self.trace)
            if not own and trace.config_sha256 not in self.digests:
                field = f"traces.{index}.config_sha256"
                raise Refusal(path, field, f"is not that of {self.folder} ({shown(trace.config_sha256)})", remedy)

    def check_routing(self, path: Path, routing: RoutingTrace) -> None:
        """Refuses a routing trace that names the configuration of another run."""
        named = routing.header.config_sha256
        if named is not None and self.digests and named not in self.digests:
            problem = f"is not that of {self.folder} ({shown(named)})"
            raise Refusal(path, "header.config_sha256", problem, "give the routing trace of this run")

    def check_continuation(self, other: "RunFiles", *, placed: bool) -> None:
        """Refuses a run that is no continuation of the same training; `placed`: it may have its experts elsewhere."""
        if not all((run.folder / "config.yaml").exists() for run in (self, other)):
            return
        free = (*_LATER, *(_PLACED if placed else ()))
        own, others = (
            {
                key: value
                for key, value in flat(run.config.model_dump(mode="json")).items()
                if not any(key == name or key.startswith(f"{name}.") for name in free)
            }
            for run in (self, other)
        )
        if differing := difference(own, others):
            key, was, now = differing
            problem = f"is {now} where {self.folder} has {was}"
            raise Refusal(other.folder / "config.yaml", key, problem, "give a continuation of the same run")


def forked(one: RunFiles, other: RunFiles) -> list[int]:
    """Steps, ascending, that both runs logged after they parted.

    A shared history is copied with its clock, so it ends with the first record whose figures, times included, differ.
    """
    ours, theirs = ({record.step: record.values for record in run.records} for run in (one, other))
    common = sorted(ours.keys() & theirs.keys())
    path = other.folder / "metrics.jsonl"
    if not common:
        raise Refusal(path, "step", f"shares none with {one.folder}", "continue the same run")
    parted = next((step for step in common if repr(ours[step]) != repr(theirs[step])), None)  # nan equals itself
    if parted is None:
        problem = f"none was taken apart from {one.folder}: all {len(common)} records are the same, times included"
        raise Refusal(path, "step", problem, "train both on for some steps before they are compared")
    return [step for step in common if step >= parted]


def shown(digest: str | None) -> str:
    """The beginning of a hash, for messages."""
    return "none" if digest is None else f"{digest[:12]}..."
