"""The parts about a placement: its saving in one sentence, its load, and two continuations of the run beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from moe.collective_trace import CollectiveRecord, TraceHeader, read
from moe.placement.cost.evaluation import Evaluation, evaluate, evaluate_placement
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Placement
from moe.placement.ranks import contiguous_ranks
from moe.placement.topology import Topology
from moe.price.price import Price, recorded_under
from moe.price.table import change, megabytes, names, rows
from moe.price.traffic import Traffic
from moe.replay import replay
from moe.report.experts_section import sharing_section
from moe.report.layer_section import load_section
from moe.report.summary import DISPATCH_NAMES
from moe.routing_trace import RoutingTrace
from netsim.foundation.files import file_digest
from netsim.foundation.page import Block, Figure, Note, Section, Table
from netsim.foundation.refusal import Refusal
from trainer.experiment.report.part import Part, before_after_bars, continuation_curves
from trainer.experiment.report.run_files import RunFiles, forked, shown


@dataclass(frozen=True)
class Continuations:
    """A run continued twice, with its experts where they were and under a placement.

    `traffic` is that of the expert layers of both in a recorded step, None unless both recorded the same steps.
    `predicted` replays the first under the placement; it is `exact` if each record equals the other's recording.
    """

    plain: RunFiles
    placed: RunFiles
    steps: list[int]
    traffic: tuple[Traffic, Traffic] | None = None
    predicted: Traffic | None = None
    exact: bool = False

    COLUMNS: ClassVar = ("", "where they were, recorded", "placed, predicted", "placed, recorded", "change")

    @classmethod
    def of(cls, run: RunFiles, plain: RunFiles, placed: RunFiles, placement: Path | None) -> Continuations:
        """Reads both; without a placement file, traffic is not compared."""
        if plain.folder != run.folder:
            run.check_continuation(plain, placed=False)
        plain.check_continuation(placed, placed=True)
        wanted = None if placement is None else Placement.read(placement)
        if placement is not None and wanted is not None:
            _check_continued(placed, placement, wanted)
        steps = forked(plain, placed)
        continuations = cls(plain, placed, steps)
        if wanted is None or not all(one.trace.exists() and one.routing.exists() for one in (plain, placed)):
            return continuations
        (header, records), recorded = read(plain.trace), read(placed.trace)
        if header.steps != recorded[0].steps:
            return continuations
        routing = RoutingTrace.read(plain.routing)
        replayed = replay(header, records, routing, wanted, routing.header.dispatch or wanted.dispatch)
        mode = routing.header.dispatch or wanted.dispatch

        def traffic(traced: tuple[TraceHeader, list[CollectiveRecord]]) -> Traffic:
            return Traffic.of(*traced, wanted.ranks_per_node)

        exact = recorded_under(*recorded, routing, wanted, mode)
        pair = traffic((header, records)), traffic(recorded)
        return cls(plain, placed, steps, pair, traffic(replayed), exact)

    def part(self) -> Part:
        """The part about the losses of both continuations."""
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
        """Says what the lines are means of, and whether the prediction equals the recording."""
        steps = ", ".join(map(str, read(self.placed.trace)[0].steps))
        equal = "to the byte, record by record" if self.exact else "but for what is routed otherwise after rounding"
        return (
            f"One step, mean of the recorded steps {steps} of both continuations. The prediction replays the unplaced "
            f"one under the placement; it is what the placed one sent, {equal}."
        )

    def priced_by(self, price: Price) -> bool:
        """Whether a price was computed from the trace of the continuation without the placement."""
        return self.plain.trace.exists() and price.trace_sha256 == file_digest(self.plain.trace)


def _check_continued(placed: RunFiles, path: Path, wanted: Placement) -> None:
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


@dataclass(frozen=True)
class PlacementSavings:
    """Effects of a placement on the routing of the run, with its price and both continuations where these are known."""

    placement: Placement
    before: Evaluation
    placed: Evaluation
    priced: Price | None
    continued: Continuations | None

    def headline(self) -> tuple[str, str, str]:
        """The large number: name, value, remark."""
        known = self._bytes()
        if known is None:
            remark = f"of a token; contiguous {self.before.crossings:.2f}"
            return "Moves to other ranks", f"{self.placed.crossings:.2f}", remark
        how, was, now = known
        return "Bytes between ranks", change(was, now), f"{how}: {megabytes(was)} to {megabytes(now)} a step"

    def saving(self) -> str:
        """The saving of the placement, in one clause."""
        known = self._bytes()
        if known is None:
            was, now = self.before.crossings, self.placed.crossings
            moves = f"{now:.2f} moves of a token between ranks in place of {was:.2f} ({change(was, now)})"
            return f"placing the experts needs {moves}"
        how, was, now = known
        parts = [f"{_saved(was, now)} of the bytes between ranks ({how})"]
        priced = self.priced
        if priced is not None and priced.before.predicted_ms is not None and priced.after.predicted_ms is not None:
            over = "" if priced.rates is None else f" over {_rate(priced.rates['inter_bps'])}"
            saved = _saved(priced.before.predicted_ms, priced.after.predicted_ms)
            parts.append(f"{saved} of the time of its exchanges{over} (alpha-beta)")
        if priced is not None and priced.simulated_ms:
            parts.append(f"{_saved(*next(iter(priced.simulated_ms.values())))} of a whole step (simulated)")
        listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
        return f"placing the experts saves this run {listed}"

    def section(self) -> Section:
        """Bytes, times and load, as pictures and in one table."""
        mode = DISPATCH_NAMES[self.placement.dispatch]
        shape = f"{self.placement.num_nodes} x {self.placement.ranks_per_node} ranks"
        saved = self.saving()
        text = f"{saved[0].upper()}{saved[1:]}. All figures are for {mode} on {shape}, the mode of this run."
        blocks = [*self._pictures(), *self._tables()]
        return Section("What the placement saves this run", blocks, text)

    def _bytes(self) -> tuple[str, float, float] | None:
        """Returns ``recorded`` or ``predicted``, and a step's bytes between ranks before and after; None if unknown."""
        if self.continued is not None and self.continued.traffic is not None:
            was, now = self.continued.traffic
            return "recorded", was.rank_bytes, now.rank_bytes
        if self.priced is not None:
            return "predicted", self.priced.before.bytes_between_ranks, self.priced.after.bytes_between_ranks
        return None

    def _pictures(self) -> list[Block]:
        known, priced = self._bytes(), self.priced
        if known is None:
            return []
        how, was, now = known
        pairs, units = {f"bytes between ranks, {how}": (was / 1e6, now / 1e6)}, ["MB"]
        caption = "One training step: what the expert layers send between ranks"
        if priced is not None:
            first, second = priced.before.predicted_ms, priced.after.predicted_ms
            pairs |= {} if first is None or second is None else {"exchanges, alpha-beta": (first, second)}
            pairs |= {f"whole step, simulated ({name})": pair for name, pair in priced.simulated_ms.items()}
            units += ["ms"] * (len(pairs) - 1)
            caption += ", the time of those exchanges, and that of the whole step with its computation"
        bars = {name: {"where they were": one, "placed": other} for name, (one, other) in pairs.items()}
        return [Figure(before_after_bars(bars, units), f"{caption}.")]

    def _tables(self) -> list[Block]:
        priced, continued = self.priced, self.continued
        recorded = continued is not None and continued.traffic is not None
        if priced is None and not recorded:
            cells = [
                ("moves of a token to other ranks", self.before.crossings, self.placed.crossings),
                ("busiest rank over mean, mean over layers", *(e.imbalance.mean() for e in (self.before, self.placed))),
            ]
            lines = [(name, f"{was:.2f}", f"{now:.2f}", change(was, now)) for name, was, now in cells]
            return [Table(("", "contiguous", "placed", "change"), lines)]
        if priced is None:
            assert continued is not None
            return [Table(continued.COLUMNS, continued.lines(), continued.caption())]
        gaps = f" Simulated: {priced.gaps[0].lower()}{priced.gaps[1:]}" if priced.gaps else ""
        if not recorded or continued is None:
            caption = f"One step, mean of {len(priced.steps)} recorded.{gaps}"
            return [Table(("", *names(priced), "change"), rows(priced), caption)]
        others = [(name, was, now, "", percent) for name, was, now, percent in rows(priced)]
        same = continued.priced_by(priced)
        if same:
            lines = [*continued.lines(), *others[len(continued.lines()) :]]
            return [Table(continued.COLUMNS, lines, continued.caption() + gaps)]
        caption = f"One step, mean of {len(priced.steps)} recorded before the run was continued.{gaps}"
        return [
            Table(continued.COLUMNS, continued.lines(), continued.caption()),
            Table(("", *names(priced), "change"), rows(priced), caption),
        ]


def _saved(before: float, after: float) -> str:
    """Writes the share of `before` that is saved, in percent; it is negative where bytes or times grow."""
    return f"{1 - after / before:.1%}" if before else "0.0%"


def _rate(bits_per_s: float) -> str:
    """A rate in words."""
    for unit, size in (("Gbit/s", 1e9), ("Mbit/s", 1e6)):
        if bits_per_s >= size:
            return f"{bits_per_s / size:g} {unit}"
    return f"{bits_per_s:g} bit/s"


def placement_part(
    run: RunFiles, path: Path, routing: Path | None, folder: Path | None, continued: Continuations | None
) -> Part:
    """Effect of the placement on the traffic and the load of the run, or of a routing trace.

    `folder` holds the results of ``moe price``; `continued`: both continuations as recorded.
    """
    source = routing or run.routing
    placement, trace = Placement.read(path), RoutingTrace.read(source)
    _check(run, path, placement, source, trace)
    priced = None if folder is None else _price(run, continued, folder, path)
    topology = Topology.hops(placement.num_nodes, placement.ranks_per_node)
    statistics = RoutingStatistics.collect(trace, topology.num_ranks)
    baseline = contiguous_ranks(statistics.num_layers, statistics.num_experts, topology.num_ranks)
    before = evaluate(statistics, topology, baseline, placement.dispatch)
    placed = evaluate_placement(statistics, topology, placement)
    used = trace.header.dispatch
    if used is not None and used != placement.dispatch:
        return _unused(placement, used)
    load = f"{placed.imbalance.max():.2f}"
    cap = None if placement.load is None else placement.load.max_load
    remark = f"times the mean; contiguous {before.imbalance.max():.2f}"
    facts = [("Busiest rank, worst layer", load, remark if cap is None else f"{remark}; cap {cap:.4g}")]
    savings = PlacementSavings(placement, before, placed, priced, continued)
    sections = [savings.section()]
    shared = sharing_section(statistics, placement.dispatch, before, placed, "contiguous", placement.has_replicas)
    sections += [] if shared is None else [shared]
    idle = int((statistics.loads == 0).sum())
    sections.append(load_section(before, placed, "contiguous", idle=idle, cap=cap))
    mode = DISPATCH_NAMES[placement.dispatch]
    return Part(
        [
            (f"placement, {mode}", savings.saving()),
            ("busiest rank, worst layer", f"{before.imbalance.max():.2f} -> {load} x mean"),
        ],
        [savings.headline(), *facts],
        sections,
        f"{savings.saving()}, while the busiest rank computes {load} times the mean in the worst layer",
    )


def _check(run: RunFiles, path: Path, placement: Placement, source: Path, trace: RoutingTrace) -> None:
    if placement.objective is None:
        raise Refusal(path, "objective", "is null", "make the file with `python -m moe place`")
    for field in ("num_layers", "num_experts"):
        value, wanted = getattr(placement, field), getattr(trace.header, field)
        if value != wanted:
            raise Refusal(
                path, field, f"is {value} but the routing trace has {wanted}", "give the trace that was placed"
            )
    run.check_routing(source, trace)
    digest = file_digest(source)
    if placement.trace_sha256 not in (None, digest):
        problem = f"is not that of {source} ({shown(placement.trace_sha256)})"
        raise Refusal(path, "trace_sha256", problem, "place the routing of this run, or give --routing FILE")


def _price(run: RunFiles, continued: Continuations | None, folder: Path, placement: Path) -> Price:
    path = folder / "price.json"
    price = Price.read(path)
    traces = [run.trace, *([] if continued is None else [continued.plain.trace])]
    for field, sources in (("trace_sha256", traces), ("placement_sha256", [placement])):
        if getattr(price, field) not in [file_digest(source) for source in sources if source.exists()]:
            problem = f"is not that of {' or '.join(map(str, sources))} ({shown(getattr(price, field))})"
            raise Refusal(path, field, problem, "price this run under this placement with `python -m moe price`")
    return price


def _unused(placement: Placement, used: str) -> Part:
    text = (
        f"The placement is made for {DISPATCH_NAMES[placement.dispatch]}, and the run used "
        f"{DISPATCH_NAMES.get(used, used)}: what the search saved there is not saved here. "
        + ("No placement changes what it sends." if used == "capped" else f"Place again with `--objective {used}`.")
    )
    return Part(
        [("placement", f"for {placement.dispatch} dispatch, which the run does not use")],
        [],
        [Section("A placement that this run cannot use", [Note(text)])],
    )
