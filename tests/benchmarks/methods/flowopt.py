"""Zero-order inversion beside other ways back to noise: python -m tests.benchmarks.methods.flowopt

The field of a perceptron of 3 x 256 that has learned 1,500 of the 8 x 8 digits, without their classes, in 4,000 steps
of 256, and reads four octaves of waves of the time. The sampler is Euler's method with 10 steps. 100 other digits are
inverted, and what the noise leads to is held against them. PSNR is 10 log10(4 / e) in dB, for pixels in -1..1, with e
the mean squared error over all 100: so one digit that diverges shows.

The first table: the iterates themselves after 0, 8 and 30 corrections of the noise, from three first noises and with
five step sizes ("own": for each digit 0.4 of the smallest bound that its run has shown); the best iterate of each digit
of all 31, which is what the inversion returns; and the share of digits whose last iterate is worse than their first.
"bound" is the smallest over the digits and their 5 % quantile.

The second table: PSNR by calls of the network for a batch, inversion and drawing together; a step of backpropagation is
counted as two calls. The rivals:

* Euler, UniInv: as many steps back as forth, on finer grids as there are more calls, so that they draw with more steps
  than 10, too. In brackets: the same noise drawn with 10 steps.
* fixed point: UniInv with more evaluations in each of 10 steps back, as ReNoise does, so that Euler's steps are undone
  exactly in the end;
* gradient, Adam, L-BFGS: minimisation of the squared error by backpropagation through the sampler, from UniInv, the
  first two with the best of three rates. Their direction is the exact one, but the squared slopes of the sampler decide
  how fast they are.

They ask the field at states of their own, or for its gradient; the zero-order correction asks for nothing but what the
sampler draws.

Source: Ronai, Kulikov and Michaeli, "FlowOpt: Fast Optimization Through Whole Flow Processes for Training-Free
Editing", arXiv 2510.22010; Jiao et al., "UniEdit-Flow", arXiv 2504.13109 (UniInv); Garibi et al., "ReNoise: Real Image
Inversion Through Iterative Noising", arXiv 2403.14602 (fixed point).
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from matplotlib.figure import Figure
from torch import Tensor

from moe.seeds import fold_in
from tests.benchmarks.methods import by_seed
from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.boss import WithWaves, field_of
from tests.benchmarks.methods.immiscible import digits
from tests.benchmarks.methods.plain_loop import flow_task, rows, train
from trainer.flow.inversion import Inversion, Iterated, Reverse, UniInversion, zero_order
from trainer.flow.path import Linear
from trainer.flow.sampler import Euler, Field

STEPS, ITERATIONS, TRAINED, NUM = 10, 30, 1500, 100
SIZES: dict[str, float | None] = {"0.1": 0.1, "0.4": 0.4, "0.8": 0.8, "1.6": 1.6, "own": None}
REVERSE, UNI, NOISE = "reverse Euler", "UniInv", "random noise"
BUDGETS = (40, 80, 100, 160, 320)
RATES = {"Adam": (0.01, 0.03, 0.1), "gradient": (0.2, 0.5, 1.0), "L-BFGS": (1.0,)}
Figures = dict[str, float]
Tables = dict[str, Figures]
Curve = dict[int, float]
"""PSNR by calls of the network."""
EULER = Euler()


@dataclass(frozen=True)
class Subject:
    """A trained field and what is inverted.

    Attributes:
        field: of the flow.
        states: [100, 64] the digits, which the field has not learned.
    """

    field: Field
    states: Tensor

    def drawn(self, noise: Tensor, steps: int = STEPS) -> Tensor:
        """What Euler's method leads noise to."""
        return EULER.sample(self.field, noise, grid(steps)).final

    def psnr(self, drawn: Tensor) -> float:
        """PSNR of states that should be the digits, in dB."""
        return decibels((drawn - self.states).square().mean())

    def back(self, way: Inversion, steps: int = STEPS) -> Tensor:
        """The noise of the digits."""
        keys = fold_in(torch.tensor(0), torch.arange(NUM))
        return way.invert(self.field, self.states, grid(steps), keys=keys).noise


def grid(steps: int) -> Tensor:
    """Equal steps."""
    return torch.linspace(0, 1, steps + 1)


def decibels(squared_error: Tensor) -> float:
    """PSNR for values in -1..1."""
    return float(10 * (4 / squared_error.double()).log10())


def subject(seed: int) -> Subject:
    """Trains the field on some of the digits, and takes 100 of the others."""
    pixels = digits(centred=False)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
    network = WithWaves(seed)
    train(flow_task(), rows(pixels[order[:TRAINED]]), network, steps=4000, batch=256, lr=1e-3, seed=seed)
    return Subject(field_of(network.eval().requires_grad_(False)), pixels[order[TRAINED : TRAINED + NUM]])


def of_run(run: Iterated, of: Subject) -> Figures:
    """The figures of one zero-order inversion."""
    worse = (run.errors[-1] > run.errors[0]).float().mean()
    figures = {f"iterate {number}": decibels(run.errors[number].mean()) for number in (0, 8, ITERATIONS)}
    return figures | {
        "best": of.psnr(run.drawn),
        "worse than first": float(worse),
        "bound, smallest": float(run.bound.min()),
        "bound, 5 %": float(run.bound.quantile(0.05)),
    }


def curve_of(run: Iterated, first_calls: int) -> Curve:
    """PSNR of the best iterates so far by calls: T for each drawing, and those of the first inversion."""
    best = run.errors.cummin(0).values.mean(1)
    return {first_calls + STEPS * (number + 1): decibels(error) for number, error in enumerate(best)}


@torch.enable_grad()
def descended(of: Subject, initial: Tensor, kind: str, rate: float) -> Curve:
    """PSNR by calls of a descent on the squared error, by backpropagation; the best of each digit so far."""
    z = initial.clone().requires_grad_()
    least, found = torch.full((NUM,), math.inf), Curve()

    def closure() -> Tensor:
        nonlocal least
        error = (of.drawn(z) - of.states).square()
        least = torch.minimum(least, error.detach().mean(1))
        found[STEPS + 1 + STEPS + 3 * STEPS * len(found)] = decibels(least.mean())
        z.grad = None
        loss = error.sum() / 2
        loss.backward()
        return loss

    match kind:
        case "L-BFGS":
            largest = {"max_iter": ITERATIONS, "max_eval": ITERATIONS + 1, "history_size": 20}
            torch.optim.LBFGS([z], rate, line_search_fn="strong_wolfe", **largest).step(closure)
        case _:
            optimizer = torch.optim.Adam([z], rate) if kind == "Adam" else torch.optim.SGD([z], rate)
            for _ in range(ITERATIONS + 1):
                optimizer.step(closure)
    return found


def rivals(of: Subject) -> dict[str, Curve]:
    """PSNR of the other ways by calls."""
    found: dict[str, Curve] = {}
    for name, way in (("finer Euler", Reverse().build(EULER, Linear())), ("finer UniInv", UniInversion())):
        found[name], on_ten = {}, {}
        for budget in BUDGETS:
            noise = of.back(way, budget // 2)
            found[name][budget] = of.psnr(of.drawn(noise, budget // 2))
            on_ten[budget] = of.psnr(of.drawn(noise))
        found[f"({name}, 10 steps forth)"] = on_ten
    found["fixed point"] = {
        budget: of.psnr(of.drawn(of.back(UniInversion(evaluations=budget // STEPS - 1)))) for budget in BUDGETS
    }
    for kind, rates in RATES.items():
        curves = [descended(of, of.back(UniInversion()), kind, rate) for rate in rates]
        found[kind] = max(curves, key=lambda curve: max(curve.values()))
    return found


def at(curve: Curve, budget: int) -> float | None:
    """The figure of the most calls that a budget allows, with one call more, the first of UniInv, allowed."""
    within = [calls for calls in curve if calls <= budget + 1]
    return curve[max(within)] if within else None


def run(seed: int) -> tuple[dict[str, Tables], dict[str, Curve]]:
    """Both tables of one seed, and the curves of the second by calls."""
    torch.set_num_threads(1)
    tables = measured(subject(seed), seed)
    print(f"seed {seed}: done", file=sys.stderr, flush=True)
    return tables


@torch.no_grad()
def measured(of: Subject, seed: int) -> tuple[dict[str, Tables], dict[str, Curve]]:
    """See :func:`run`."""
    noise = torch.randn(NUM, 64, generator=torch.Generator().manual_seed(500 + seed))
    firsts = {
        REVERSE: (of.back(Reverse().build(EULER, Linear())), STEPS),
        UNI: (of.back(UniInversion()), STEPS + 1),
        NOISE: (noise, 0),
    }
    iterates: dict[str, Figures] = {}
    curves: dict[str, Curve] = {}
    for first, (start, calls) in firsts.items():
        for name, size in SIZES.items():
            found = zero_order(of.drawn, of.states, start, ITERATIONS, size)
            iterates[f"{first}, {name}"] = of_run(found, of)
            if name in ("0.4", "own"):
                curves[f"zero-order, {name}, from {first}"] = curve_of(found, calls)
    curves |= rivals(of)
    by_calls = {
        name: {f"{budget} calls": value for budget in BUDGETS if (value := at(curve, budget)) is not None}
        for name, curve in curves.items()
    }
    return {"iterates": iterates, "calls": by_calls}, curves


def bars(of_seeds: Sequence[dict[str, Tables]]) -> list[Bar]:
    """What has to be shown; each figure is that of the worst seed."""

    def gain(row: str, number: int) -> list[float]:
        return [
            tables["iterates"][row][f"iterate {number}"] - tables["iterates"][row]["iterate 0"] for tables in of_seeds
        ]

    def ahead(row: str, rival: str) -> list[float]:
        return [tables["calls"][row]["320 calls"] - tables["calls"][rival]["320 calls"] for tables in of_seeds]

    found = []
    for name in ("0.4", "own"):
        found += [
            Bar(
                f"gain from reverse Euler at {number} iterations, {name}, dB",
                min(gain(f"{REVERSE}, {name}", number)),
                limit,
                True,
            )
            for number, limit in ((8, 8.0), (ITERATIONS, 20.0))
        ]
    for first, limit in ((REVERSE, 0.0), (UNI, 5.0)):
        lead = min(ahead(f"zero-order, own, from {first}", "finer Euler"))
        found.append(Bar(f"lead over finer Euler at 320 calls, own, from {first}, dB", lead, limit, True))
    found += [
        Bar(
            f"gain at 30 iterations with 1.6, beyond the bound, from {first}, dB",
            max(gain(f"{first}, 1.6", ITERATIONS)),
            0.0,
        )
        for first in (REVERSE, UNI)
    ]
    return found


def chart(curves: Sequence[Mapping[str, Curve]], path: Path) -> None:
    """Draws PSNR against calls, the mean over the seeds.

    Args:
        curves: of each seed.
        path: PNG file that is written.
    """
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    shown = [name for name in curves[0] if not name.startswith("(") and "0.4" not in name]
    for number, name in enumerate(shown):
        calls = sorted(curves[0][name])
        values = [fmean(of_seed[name][one] for of_seed in curves) for one in calls]
        style, width = ("-", 2.5) if name.startswith("zero-order") else ("--", 1.5)
        axes.plot(calls, values, style, color=f"C{number}", linewidth=width, label=name)
    axes.set(xlabel="calls of the network, inversion and drawing", ylabel="PSNR in dB", xscale="log", xlim=(10, 1000))
    axes.set_title(f"100 digits to noise and back, {STEPS} steps of Euler's method, mean over the seeds")
    axes.legend(loc="upper left", fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def main() -> int:
    """Trains, inverts, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    parser = by_seed.parser(__doc__)
    parser.add_argument("--out", type=Path, help="PNG file for the chart of PSNR against calls")
    options = parser.parse_args()
    found = by_seed.for_seeds(options, run)
    of_seeds = [tables for tables, _ in found]

    def gathered(title: str) -> dict[str, dict[str, list[float]]]:
        return {
            row: {figure: [tables[title][row][figure] for tables in of_seeds] for figure in figures}
            for row, figures in of_seeds[0][title].items()
        }

    if options.out is not None:
        chart([curves for _, curves in found], options.out)
    show("digits, 10 steps, PSNR in dB of the iterates", gathered("iterates"), [])
    return show("digits, 10 steps, PSNR in dB by calls of the network", gathered("calls"), bars(of_seeds))


if __name__ == "__main__":
    raise SystemExit(main())
