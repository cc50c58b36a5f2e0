"""A part of the report, and pictures of a run's figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from netsim.foundation.chart import Panel, chart
from netsim.foundation.marks import BLUE, COLOURS, DASHED, GREY, RED, Line, Mark, Rows
from netsim.foundation.page import Section
from trainer.observe.metrics import Record


@dataclass(frozen=True)
class Part:
    """A part of the page: figures for the terminal, large numbers, sections, and a clause for the sentence on top."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    facts: list[tuple[str, str, str]] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    finding: str = ""


HELD_OUT = "held_out_loss_"
"""Prefix of the held-out losses of single sources."""


def loss_curves(records: Sequence[Record]) -> str:
    """Draws training loss, held-out loss and learning rate over the steps; of a mixture, also those of its sources."""
    losses: list[Mark] = [
        _line(records, "loss", GREY, name="training", width=1.2),
        _line(records, "held_out_loss", BLUE, name="held out, averaged", marker="o"),
    ]
    for number, name in enumerate(sources_in(records)):
        colour = COLOURS[(2 + number) % len(COLOURS)]
        losses.append(_line(records, f"loss_{name}", colour, width=0.7, alpha=0.4))
        losses.append(_line(records, f"{HELD_OUT}{name}", colour, name=name, dash=DASHED, width=1.2))
    rates = Panel([_line(records, "lr", RED, width=1.2)], x="optimiser step", y="learning rate", y_limits=(0, None))
    above = Panel(losses, y="loss", y_limits=(0, None), legend="best")
    return chart([above], [rates], size=(5.4, 4.2), name="loss", share="x", heights=(3, 1))


def reward_curves(records: Sequence[Record]) -> str:
    """Draws the reward over its calls (or steps) and against the distance from the base."""
    known = [record for record in records if "reward" in record.values]
    spent = [record.values.get("reward_calls", float(record.step)) for record in known]
    held_out = [(x, one.values) for x, one in zip(spent, known, strict=True) if "held_out_reward" in one.values]
    away = [one.values for one in known if "path_kl" in one.values]
    over_calls = [
        Line(spent, [record.values["reward"] for record in known], GREY, "learned from", width=1.4),
        Line([x for x, _ in held_out], [one["held_out_reward"] for _, one in held_out], BLUE, "held out", marker="o"),
    ]
    from_base = Line([one["path_kl"] for one in away], [one["reward"] for one in away], GREY, marker=".")
    counted = "rewards asked for" if "reward_calls" in known[-1].values else "optimiser step"
    panels = (
        Panel(over_calls, x=counted, y="mean reward", legend="best"),
        Panel([from_base], x="divergence of a path from the base, nats"),
    )
    return chart(panels, size=(11.0, 3.0), name="reward", share="y")


def sources_in(records: Sequence[Record]) -> list[str]:
    """The names of the sources of a mixture whose held-out losses a run has measured, in the order of the alphabet."""
    return sorted(
        {name.removeprefix(HELD_OUT) for record in records for name in record.values if name.startswith(HELD_OUT)}
    )


def continuation_curves(steps: Sequence[int], plain: Sequence[float], placed: Sequence[float]) -> str:
    """Draws the losses of two continuations of one run."""
    lines = (
        Line(steps, plain, GREY, "experts where they were", width=5),
        Line(steps, placed, BLUE, "experts placed", width=1.2, marker="o"),
    )
    shown = {float(step): str(step) for step in steps[:: -(-len(steps) // 12)]}
    panel = Panel(lines, x="optimiser step", y="training loss", x_ticks=shown, legend="right")
    return chart([panel], size=(11.0, 2.6), name="continued")


def before_after_bars(groups: Mapping[str, Mapping[str, float]], units: Sequence[str]) -> str:
    """Draws pairs of bars beside each other, each pair on a scale of its own, with their values."""
    panels = []
    for unit, (name, pair) in zip(units, groups.items(), strict=True):
        texts = [f"{value:,.2f} {unit}" for value in pair.values()]
        bars = Rows([[value] for value in pair.values()], texts, (GREY, BLUE))
        rows = list(pair) if not panels else ["", ""]
        panels.append(Panel([bars], name, rows=rows, x_ticks={0.0: ""}, grid=""))
    return chart(panels, size=(11.0, 1.3), name="before and after", gap=0.06)


def _line(records: Sequence[Record], key: str, colour: str, **look: Any) -> Line:
    points = [(record.step, record.values[key]) for record in records if key in record.values]
    return Line([step for step, _ in points], [value for _, value in points], colour, **look)
