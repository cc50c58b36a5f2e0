"""What a placement saves a run: one sentence, one large number, one section."""

from dataclasses import dataclass

from moe.placement.cost.evaluation import Evaluation
from moe.placement.placement import Placement
from moe.price.price import Price
from moe.price.table import change, megabytes, names, rows
from moe.report.page import Block, Figure, Section, Table
from moe.report.summary import DISPATCH_NAMES
from trainer.experiment.report.continuing import Continuations
from trainer.experiment.report.curves import before_after_bars


@dataclass(frozen=True)
class Money:
    """What is known of a placement's effect; the more is recorded, the less is predicted.

    Attributes:
        placement: the placement.
        before: traffic of the run's routing under the contiguous placement.
        placed: the same under the placement.
        priced: what ``moe price`` found, or None.
        continued: both continuations of the run, or None.
    """

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
        """What the placement saves, in one clause."""
        known = self._bytes()
        if known is None:
            was, now = self.before.crossings, self.placed.crossings
            moves = f"{now:.2f} moves of a token between ranks in place of {was:.2f} ({change(was, now)})"
            return f"placing the experts needs {moves}"
        how, was, now = known
        share = f"{abs(now / max(was, 1) - 1):.1%} {'fewer' if now <= was else 'more'} bytes between ranks"
        clause = f"placing the experts sends {share} ({how})"
        if self.priced is None:
            return clause
        first, second = self.priced.before.predicted_ms, self.priced.after.predicted_ms
        if first is not None and second is not None:
            clause += f", exchanges take {second:,.4g} ms of a step in place of {first:,.4g} (alpha-beta)"
        for transport, (first, second) in list(self.priced.simulated_ms.items())[:1]:
            clause += f" and the whole step {second:,.4g} ms in place of {first:,.4g} (simulated, {transport})"
        return clause

    def section(self) -> Section:
        """Bytes, times and load, as pictures and in one table."""
        mode = DISPATCH_NAMES[self.placement.dispatch]
        shape = f"{self.placement.num_nodes} x {self.placement.ranks_per_node} ranks"
        saved = self.saving()
        text = f"{saved[0].upper()}{saved[1:]}. All figures are for {mode} on {shape}, the mode of this run."
        blocks = [*self._pictures(), *self._tables()]
        return Section("What the placement saves this run", blocks, text)

    def _bytes(self) -> tuple[str, float, float] | None:
        """How the bytes of a step between ranks are known, and how many they were and are."""
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
        caption = f"Bytes of the expert layers between ranks in one training step, {how}."
        bars = {"bytes between ranks": {"where they were": was / 1e6, "placed": now / 1e6}}
        if priced is None:
            return [Figure(before_after_bars(bars, "MB"), caption)]
        first, second = priced.before.predicted_ms, priced.after.predicted_ms
        times = {} if first is None or second is None else {"exchanges, alpha-beta": (first, second)}
        times |= {f"whole step, {name}": pair for name, pair in priced.simulated_ms.items()}
        pairs = {name: {"where they were": one, "placed": other} for name, (one, other) in times.items()}
        timed = "Predicted time of the exchanges of a step, and simulated time of the whole step with its computation."
        return [
            Figure(before_after_bars(bars, "MB"), caption, half=True),
            Figure(before_after_bars(pairs, "ms"), timed, half=True),
        ]

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
