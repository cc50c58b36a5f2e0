"""A part of the report, and pictures of a run's figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from moe.report.figures import STYLE, to_svg
from netsim.foundation.page import Section
from trainer.observe.metrics import Record


@dataclass(frozen=True)
class Part:
    """A part of the page: figures for the terminal, large numbers, sections, and a clause for the sentence on top."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    facts: list[tuple[str, str, str]] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    finding: str = ""


COLORS = ("#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#f0e442", "#000000")
HELD_OUT = "held_out_loss_"
"""What names of the held-out losses of sources begin with."""


def loss_curves(records: Sequence[Record]) -> str:
    """Draws training loss, held-out loss and learning rate over the steps; of a mixture, also those of its sources."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 4.2), layout="constrained")
        losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        _line(losses, records, "loss", color="#9aa5b1", linewidth=1.2, label="training")
        _line(losses, records, "held_out_loss", color="#0072b2", marker="o", markersize=4, label="held out, averaged")
        sources = sources_in(records)
        for number, name in enumerate(sources):
            color = COLORS[number % len(COLORS)]
            _line(losses, records, f"loss_{name}", color=color, linewidth=0.7, alpha=0.4)
            _line(losses, records, f"held_out_loss_{name}", color=color, linestyle="--", linewidth=1.2, label=name)
        losses.set(ylabel="loss", ylim=(0, None))
        losses.legend(frameon=False, **({"fontsize": "small", "ncols": 2} if sources else {}))
        _line(rates, records, "lr", color="#d55e00", linewidth=1.2)
        rates.set(xlabel="optimiser step", ylabel="learning rate", ylim=(0, None))
        rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        return to_svg(figure)


def reward_curves(records: Sequence[Record]) -> str:
    """Draws the reward over its calls (or steps) and against the distance from the base."""
    told = [record for record in records if "reward" in record.values]
    spent = [record.values.get("reward_calls", float(record.step)) for record in told]
    counts = "reward_calls" in told[-1].values
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 3.0), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        panels[0].plot(spent, [record.values["reward"] for record in told], color="#9aa5b1", linewidth=1.4)
        held_out = [(x, one.values) for x, one in zip(spent, told, strict=True) if "held_out_reward" in one.values]
        averaged = {"color": "#0072b2", "marker": "o", "markersize": 4}
        panels[0].plot([x for x, _ in held_out], [one["held_out_reward"] for _, one in held_out], **averaged)
        panels[0].set(xlabel="rewards asked for" if counts else "optimiser step", ylabel="mean reward")
        away = [one.values for one in told if "path_kl" in one.values]
        panels[1].plot([one["path_kl"] for one in away], [one["reward"] for one in away], color="#9aa5b1", marker=".")
        panels[1].set(xlabel="divergence of a path from the base, nats")
        return to_svg(figure)


def sources_in(records: Sequence[Record]) -> list[str]:
    """The names of the sources of a mixture whose held-out losses a run has measured, in the order of the alphabet."""
    return sorted(
        {name.removeprefix(HELD_OUT) for record in records for name in record.values if name.startswith(HELD_OUT)}
    )


def continuation_curves(steps: Sequence[int], plain: Sequence[float], placed: Sequence[float]) -> str:
    """Draws the losses of two continuations of one run."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 2.6), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(steps, plain, color="#9aa5b1", linewidth=5, label="experts where they were")
        axes.plot(steps, placed, color="#0072b2", linewidth=1.2, marker="o", markersize=4, label="experts placed")
        axes.set(xlabel="optimiser step", ylabel="training loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, ncols=2)
        return to_svg(figure)


def before_after_bars(
    groups: Mapping[str, Mapping[str, float]], units: str | Sequence[str], *, across: bool = False
) -> str:
    """Draws pairs of bars, each pair on a scale of its own height, with their values.

    `across`: the pairs are side by side, over the whole width of a page, and not below each other on half of it.
    """
    each = [units] * len(groups) if isinstance(units, str) else units
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 1.3) if across else (5.4, 0.5 + 0.95 * len(groups)), layout="constrained")
        shape = (1, len(groups)) if across else (len(groups), 1)
        panels = figure.subplots(*shape, sharey=across, squeeze=False).ravel()
        for axes, unit, (name, pair) in zip(panels, each, groups.items(), strict=True):
            bars = axes.barh(list(pair), list(pair.values()), color=["#9aa5b1", "#0072b2"], height=0.66)
            axes.bar_label(bars, fmt=f"{{:,.2f}} {unit}", padding=4)
            if not axes.yaxis_inverted():
                axes.invert_yaxis()
            axes.set(title=name, xlim=(0, 1.3 * max(*pair.values(), 1e-12)), xticks=[])
            axes.title.set_ha("left")
            axes.title.set_x(0)
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
        return to_svg(figure)


def _line(axes: Axes, records: Sequence[Record], name: str, **style: Any) -> None:
    points = [(record.step, record.values[name]) for record in records if name in record.values]
    axes.plot([step for step, _ in points], [value for _, value in points], **style)
