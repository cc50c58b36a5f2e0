"""The part about two continuations of a run: the same losses, and what each of them sent."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from moe.collective_trace import CollectiveRecord, TraceHeader, read
from moe.placement.placement import Placement
from moe.price.price import Price, recorded_under
from moe.price.table import change, megabytes
from moe.price.traffic import Traffic
from moe.replay import replay
from moe.routing_trace import RoutingTrace
from netsim.foundation.digests import file_digest
from netsim.foundation.page import Figure, Section
from netsim.foundation.refusal import Refusal
from trainer.experiment.report.part import Part, continuation_curves
from trainer.experiment.report.run_files import RunFiles, forked


@dataclass(frozen=True)
class Continuations:
    """A run continued twice: with its experts where they were, and under a placement.

    Attributes:
        steps: those that both took after they parted.
        traffic: of the expert layers of each in a recorded step, None where not both recorded the same steps.
        predicted: of the latter by the replay of the former under the placement.
        exact: whether that is what the latter recorded, to the byte, record by record.
    """

    plain: RunFiles
    placed: RunFiles
    steps: list[int]
    traffic: tuple[Traffic, Traffic] | None = None
    predicted: Traffic | None = None
    exact: bool = False

    COLUMNS: ClassVar = ("", "where they were, recorded", "placed, predicted", "placed, recorded", "change")

    @classmethod
    def of(cls, run: RunFiles, plain: RunFiles, placed: RunFiles, placement: Path | None) -> "Continuations":
        """Reads both; without a placement file, traffic is not compared."""
        if plain.folder != run.folder:
            run.check_continuation(plain, placed=False)
        plain.check_continuation(placed, placed=True)
        wanted = None if placement is None else Placement.read(placement)
        if placement is not None and wanted is not None:
            _check_placement(placed, placement, wanted)
        steps = forked(plain, placed)
        found = cls(plain, placed, steps)
        if wanted is None or not all(one.trace.exists() and one.routing.exists() for one in (plain, placed)):
            return found
        (header, records), recorded = read(plain.trace), read(placed.trace)
        if header.steps != recorded[0].steps:
            return found
        routing = RoutingTrace.read(plain.routing)
        replayed = replay(header, records, routing, wanted, routing.header.dispatch or wanted.dispatch)
        mode = routing.header.dispatch or wanted.dispatch

        def traffic(traced: tuple[TraceHeader, list[CollectiveRecord]]) -> Traffic:
            return Traffic.of(*traced, wanted.ranks_per_node)

        exact = recorded_under(*recorded, routing, wanted, mode)
        pair = traffic((header, records)), traffic(recorded)
        return cls(plain, placed, steps, pair, traffic(replayed), exact)

    def part(self) -> Part:
        """The losses of both."""
        plain, placed = (
            {record.step: record.values["loss"] for record in run.records} for run in (self.plain, self.placed)
        )
        difference = max(abs(plain[step] - placed[step]) for step in self.steps)
        picture = continuation_curves(self.steps, *([run[step] for step in self.steps] for run in (plain, placed)))
        text = (
            "The run was resumed from the same checkpoint twice, with its experts where they were and under the "
            f"placement; the largest difference of {len(self.steps)} losses is {difference:.1g}."
        )
        caption = "Training loss of both continuations, step by step, from the first step that they took apart."
        steps = f"{len(self.steps)} steps"
        return Part(
            [("loss, placed against unplaced", f"largest difference {difference:.1g} over {steps}")],
            [("Loss under placement", f"{difference:.1g}", f"largest difference over {steps} after the fork")],
            [Section("Moving the experts does not change what is learned", [Figure(picture, caption)], text)],
        )

    def lines(self) -> list[tuple[str, str, str, str, str]]:
        """Bytes of a step: where the experts were, predicted under the placement, recorded there, and the change."""
        assert self.traffic is not None
        assert self.predicted is not None
        lines = []
        for name, field in {"bytes between ranks": "rank_bytes", "bytes between nodes": "node_bytes"}.items():
            first, predicted, last = (
                getattr(traffic, field) for traffic in (self.traffic[0], self.predicted, self.traffic[1])
            )
            lines.append((name, megabytes(first), megabytes(predicted), megabytes(last), change(first, last)))
        return lines

    def caption(self) -> str:
        """What the lines are means of, and whether the prediction is what was recorded."""
        steps = ", ".join(map(str, read(self.placed.trace)[0].steps))
        equal = "to the byte, record by record" if self.exact else "but for what is routed otherwise after rounding"
        return (
            f"One step, mean of the recorded steps {steps} of both continuations. The prediction replays the unplaced "
            f"one under the placement; it is what the placed one sent, {equal}."
        )

    def priced_by(self, price: Price) -> bool:
        """Whether a price is that of the continuation with the experts where they were."""
        return self.plain.trace.exists() and price.trace_sha256 == file_digest(self.plain.trace)


def _check_placement(placed: RunFiles, path: Path, wanted: Placement) -> None:
    if not (placed.folder / "config.yaml").exists():
        return
    moe = placed.config.moe
    used = None if moe is None or moe.placement is None else Placement.read(moe.placement)
    if used is None or used.rank_experts != wanted.rank_experts:
        raise Refusal(
            placed.folder / "config.yaml",
            "moe.placement",
            f"is not {path} ({'none' if moe is None else moe.placement})",
            "give the continuation under this placement",
        )
