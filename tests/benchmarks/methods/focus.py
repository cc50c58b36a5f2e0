"""A control along the gradient of a cost, at test time: python -m tests.benchmarks.methods.focus

Two subjects in the plane, each at one of four corners (1.5 from 0 along both axes, deviation 0.25), independently of
the other: a state has four values, and the exact velocity from N(0, I) is known in closed form. Each subject has a map
of 12 x 12 cells, a Gaussian of deviation 0.8 around its place, and the cost is `separation_cost` of the two maps. 4,000
states are drawn in 28 steps of Euler's method, from the same noises under every control:

* overlap: the share of states whose subjects are less than 1 apart, 0.25 for the data;
* off mode: the share of states with a subject further than 1 from all corners;
* cost: its mean at the end;
* moved: root of the mean squared distance to the end of the plain sampler from the same noise;
* energy: energy distance to data whose subjects have different corners, 2,000 points each; "data floor" is that of
  other such data. What stays to be seen is whether the rest of the distribution suffers.

The trade-off is shown for both weights, 1 - t and that of the memoryless path, with and without the limit. Rivals:

* plain guidance, the same gradient with a constant weight, at the strength that has the same overlap as the weight
  1 - t at strength 4;
* the best of n: n states are drawn without control, and the one of least cost is kept. A control asks the field once a
  step, and differentiates the cost once: where the cost asks the network too, this is a forward pass for the field and
  a forward and a backward pass for the cost, as much as n = 3.

With ``--run`` the attention of a trained network with classes and images of patches, such as that of
configs/runs/digits_moe.yaml, is separated and gathered: the patches of the upper half of the image are one subject and
those of the lower half are the other. Beside the cost stand the accuracy of a classifier fitted to the real training
images, and the Fréchet distance to them, whose floors are those of the held-out images.

Source: Bill, Simsar and Hofmann, "Optimal Control Meets Flow Matching: A Principled Route to Multi-Subject Fidelity",
arXiv 2510.02315 (FOCUS).
"""

import math
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.methods import by_seed
from tests.benchmarks.methods.bars import Bar, by_figure, show
from trainer.data import build
from trainer.evaluation.quality import ClassJudge, energy_distance, frechet_distance
from trainer.flow import UNCONDITIONAL, Condition, cost, path, sampler
from trainer.flow.control import ControlInputs, CostGradientConfig
from trainer.flow.cost import RunningCost, separation_cost
from trainer.flow.sampler import Field
from trainer.flow.target import Quantity
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.trained import opened

STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
NUM, STEPS, COMPARED = 4000, 28, 2000
CORNER, DEVIATION, CELLS, EXTENT, SPREAD = 1.5, 0.25, 12, 3.0, 0.8
PLAIN, FLOOR, GUIDANCE, BEST = "no control", "data floor", "plain guidance", "best of"
OF_TIME, MEMORYLESS, UNLIMITED = "1 - t", "memoryless", "1 - t, no limit"
WAYS: dict[str, dict[str, Any]] = {
    OF_TIME: {"weight": "time"},
    MEMORYLESS: {"weight": "memoryless"},
    UNLIMITED: {"weight": "time", "limit": None},
}
GUIDED: dict[str, Any] = {"weight": "constant"}
AT = 4.0
GOALS = ("separate", "gather")
IMAGES, OF_ATTENTION = 300, (256.0, 1024.0)
LINEAR = path.LinearConfig().build()
Figures = dict[str, float]


class ExactVelocity(Field):
    """E[x_1 - x_0 | x_t] of two points [B, 4], each independently at one of four corners."""

    def __init__(self) -> None:
        self.corners = CORNER * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        """See `Field`."""
        points, t = x.unflatten(1, (2, 1, 2)), t.view(-1, 1, 1, 1)
        variance = (1 - t) ** 2 + (t * DEVIATION) ** 2
        away = points - t * self.corners
        weight = (-away.square().sum(-1, keepdim=True) / (2 * variance)).softmax(dim=2)
        slope = (t * DEVIATION**2 - (1 - t)) / variance
        return (weight * (self.corners + slope * away)).sum(2).flatten(1)

    def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
        """See `Field.estimate`; of the velocity alone."""
        return tuple(self(x, t) for _ in quantities)


class PointMaps(RunningCost):
    """`separation_cost` of a map for each of two points."""

    def __init__(self) -> None:
        line = torch.linspace(-EXTENT, EXTENT, CELLS)
        self.cells = torch.cartesian_prod(line, line)

    def __call__(self, x: Tensor, _t: Tensor, _condition: Condition, /) -> Tensor:
        """See `RunningCost`."""
        away = (x.unflatten(1, (2, 1, 2)) - self.cells).square().sum(-1)
        maps = (-away / (2 * SPREAD**2)).softmax(-1).unflatten(2, (CELLS, CELLS))
        return separation_cost(maps.split(1, dim=1))


EXACT, MAPS = ExactVelocity(), PointMaps()


def configured(strength: float, **settings: Any) -> CostGradientConfig:
    """The control of the points."""
    written = {"cost": {"class": "tests.benchmarks.methods.focus:PointMaps"}, "strength": strength, **settings}
    return CostGradientConfig.model_validate(written)


@torch.no_grad()
def ends(x_0: Tensor, strength: float, **settings: Any) -> Tensor:
    """Where the paths from states [B, 4] end under a control."""
    steps = sampler.Euler(steps=STEPS)
    inputs = ControlInputs(LINEAR, UNCONDITIONAL, network=lambda *_: None)
    field = configured(strength, **settings).build(inputs).over(EXACT)
    return steps.build(LINEAR).sample(field, x_0, steps.grid()).final


def noises(num: int, seed: int) -> Tensor:
    """Draws starts [num, 4]."""
    return torch.randn(num, 4, generator=torch.Generator().manual_seed(seed))


def apart(num: int, seed: int) -> Tensor:
    """Data [num, 4] whose points have different corners."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(4, (num,), generator=generator)
    other = (first + torch.randint(1, 4, (num,), generator=generator)) % 4
    places = EXACT.corners[torch.stack([first, other], dim=1)]
    return (places + DEVIATION * torch.randn(num, 2, 2, generator=generator)).flatten(1)


def overlap(x: Tensor) -> float:
    """The share of states whose points are less than 1 apart."""
    return float(((x[:, :2] - x[:, 2:]).norm(dim=1) < 1).float().mean())


def off_mode(x: Tensor) -> float:
    """The share of states with a point further than 1 from all corners."""
    nearest = torch.cdist(x.unflatten(1, (2, 2)), EXACT.corners).amin(-1)
    return float((nearest > 1).any(1).float().mean())


def costs(x: Tensor) -> Tensor:
    """The cost of each state."""
    return MAPS(x, torch.ones(len(x)), UNCONDITIONAL)


def figures(x: Tensor, plain: Tensor, seed: int) -> Figures:
    """What is said of states, some of which may have been drawn from the noises of `plain`."""
    return {
        "overlap": overlap(x),
        "off mode": off_mode(x),
        "cost": float(costs(x).mean()),
        "moved": float((x - plain).square().sum(1).mean().sqrt()),
        "energy": energy_distance(x[:COMPARED].numpy(), apart(COMPARED, 500 + seed).numpy()),
    }


def of_equal_overlap(x_0: Tensor, wanted: float, curve: Mapping[float, float], **settings: Any) -> float:
    """The strength with which a control leaves a share of overlap, by bisection of its logarithm.

    Args:
        x_0: [B, 4] starts.
        wanted: the share.
        curve: shares that are known, by strength, from the smallest strength to the largest.
        **settings: of the control.
    """
    low = max((strength for strength, share in curve.items() if share > wanted), default=min(curve) / 4)
    high = min((strength for strength, share in curve.items() if share <= wanted), default=max(curve))
    for _ in range(4):
        middle = math.sqrt(low * high)
        if overlap(ends(x_0, middle, **settings)) > wanted:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)


def best_of(num: int, x_0: Tensor, seed: int) -> Tensor:
    """The state of least cost among `num` that are drawn without control, the first of them from `x_0`."""
    drawn = ends(torch.cat([x_0, noises((num - 1) * NUM, 700 + seed)]), 0.0).unflatten(0, (num, NUM))
    least = torch.stack([costs(one) for one in drawn]).argmin(0)
    return drawn[least, torch.arange(NUM)]


def run_points(seed: int) -> dict[str, Figures]:
    """The whole trade-off of one seed."""
    x_0 = noises(NUM, seed)
    plain = ends(x_0, 0.0)
    found = {PLAIN: figures(plain, plain, seed)}
    for name, settings in {**WAYS, GUIDANCE: GUIDED}.items():
        for strength in STRENGTHS:
            found[row(name, strength)] = figures(ends(x_0, strength, **settings), plain, seed)
    wanted = found[row(OF_TIME, AT)]["overlap"]
    for name, settings in ((GUIDANCE, GUIDED), (MEMORYLESS, WAYS[MEMORYLESS])):
        curve = {one: found[row(name, one)]["overlap"] for one in STRENGTHS}
        same = of_equal_overlap(x_0, wanted, curve, **settings)
        told = {"strength": same, **figures(ends(x_0, same, **settings), plain, seed)}
        found[f"{name} at the overlap of {row(OF_TIME, AT)}"] = told
    for num in (2, 3):
        found[f"{BEST} {num}"] = figures(best_of(num, x_0, seed), plain, seed)
    floor = apart(COMPARED, 600 + seed)
    found[FLOOR] = {
        "overlap": overlap(floor),
        "off mode": off_mode(floor),
        "cost": float(costs(floor).mean()),
        "energy": energy_distance(floor.numpy(), apart(COMPARED, 500 + seed).numpy()),
    }
    return found


def row(name: str, strength: float) -> str:
    """What a control is called in the table, with its strength."""
    return f"{name}: {strength:g}"


def picture(table: dict[str, dict[str, list[float]]], out: Path) -> None:
    """Draws what is lost against what is gained, along the strengths of every weight."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(11, 4.2), layout="constrained")
    for axes, figure in zip(drawing.subplots(1, 3), ("off mode", "energy", "moved"), strict=True):
        for name in (*WAYS, GUIDANCE):
            names = [PLAIN, *(row(name, strength) for strength in STRENGTHS)]
            points = [(fmean(table[one]["overlap"]), fmean(table[one][figure])) for one in names]
            axes.plot(*zip(*points, strict=True), "o--" if name == GUIDANCE else "o-", label=name, markersize=4)
        for num, marker in ((2, "k*"), (3, "kX")):
            mean = {key: fmean(values) for key, values in table[f"{BEST} {num}"].items()}
            axes.plot(mean["overlap"], mean[figure], marker, label=f"{BEST} {num}", markersize=9)
        axes.set_xlabel("share of states whose subjects overlap")
        axes.set_ylabel({"energy": "energy distance to subjects apart", "moved": "moved by"}.get(figure, figure))
        axes.set_xlim(left=-0.01)
        axes.set_ylim(bottom=0)
    first = drawing.axes[0]
    first.axhline(0.01, color="grey", linestyle=":")
    first.axvline(fmean(table[PLAIN]["overlap"]) / 2, color="grey", linestyle=":", label="bars at strength 4")
    first.legend(frameon=False)
    first.set_ylim(0, 0.03)
    drawing.savefig(out, dpi=120)


class OfNetwork:
    """A trained network of images, whose halves are the subjects.

    Args:
        flow: it.
        seed: of the starting noises.
    """

    def __init__(self, flow: TrainedFlow, seed: int) -> None:
        config = flow.config
        self.flow, num_patches = flow, config.model.tokens(config.state_shape)
        self.halves = tuple(tuple(half.tolist()) for half in torch.arange(num_patches).chunk(2))
        self.condition = Condition(torch.arange(IMAGES) % config.data.num_classes)
        generator = torch.Generator().manual_seed(seed)
        self.starts = [torch.randn(IMAGES, *config.state_shape, generator=generator) for _ in range(3)]
        data = build(config.data)
        self.real, self.held_out = (data.get(data.indices(split)) for split in ("train", "held_out"))

    def cost(self, goal: str) -> cost.AttentionConfig:
        """The halves apart, or together."""
        return cost.AttentionConfig.model_validate({"subjects": self.halves, "goal": goal})

    @torch.no_grad()
    def drawn(self, start: Tensor, goal: str, strength: float) -> Tensor:
        """The states at the end."""
        flow = self.flow
        chosen = CostGradientConfig(cost=self.cost(goal), strength=strength)
        inputs = ControlInputs(flow.parts.path, self.condition, flow.model)
        field = flow.parts.field(flow.model, self.condition, flow.sample.guidance)
        steps = sampler.Euler(steps=20)
        sampled = steps.build(flow.parts.path)
        return sampled.sample(chosen.build(inputs).over(field), start, steps.grid()).final

    @torch.no_grad()
    def costs(self, goal: str, states: Tensor) -> Tensor:
        """The costs of states at the end."""
        return self.cost(goal).build(self.flow.model)(states, torch.ones(IMAGES), self.condition)

    def figures(self, goal: str, states: Tensor) -> Figures:
        """Cost and quality of images that were drawn."""
        images = self.flow.parts.space.decode(states)
        assert self.condition.label is not None
        return {"cost": float(self.costs(goal, states).mean()), **self.quality(images, self.condition.label)}

    def quality(self, images: Tensor, labels: Tensor) -> Figures:
        """What a classifier and a Fréchet distance say."""
        assert self.real.labels is not None
        real, classes = self.real.x_1.numpy(), self.real.labels.numpy()
        return {
            "accuracy": ClassJudge(real, classes).accuracy(images.numpy(), labels.numpy()),
            "Fréchet": frechet_distance(images.flatten(1).numpy(), self.real.x_1.flatten(1).numpy()),
        }


def run_network(flow: TrainedFlow, seed: int) -> list[dict[str, Figures]]:
    """The attention of a trained network before and after, for each goal."""
    of = OfNetwork(flow, seed)
    plain = torch.stack([of.drawn(start, GOALS[0], 0.0) for start in of.starts])
    assert of.held_out.labels is not None
    floor = of.quality(of.held_out.x_1, of.held_out.labels)
    tables = []
    for goal in GOALS:
        least = torch.stack([of.costs(goal, states) for states in plain]).argmin(0)
        found = {PLAIN: of.figures(goal, plain[0])}
        for strength in OF_ATTENTION:
            found[row(OF_TIME, strength)] = of.figures(goal, of.drawn(of.starts[0], goal, strength))
        found[f"{BEST} 3"] = of.figures(goal, plain[least, torch.arange(IMAGES)])
        tables.append({**found, "held-out images": floor})
    return tables


def run(seed: int, folder: Path | None) -> list[dict[str, Figures]]:
    """The tables of one seed: the points, and the goals where there is a network."""
    torch.set_num_threads(1)
    tables = [run_points(seed)]
    print(f"seed {seed}: points drawn", file=sys.stderr, flush=True)
    if folder is not None:
        with opened(folder) as flow:
            tables += run_network(flow, seed)
        print(f"seed {seed}: images drawn", file=sys.stderr, flush=True)
    return tables


def bars(table: dict[str, dict[str, list[float]]]) -> list[Bar]:
    """What has to be shown."""
    at_4 = row(OF_TIME, AT)
    ratios = [one / other for one, other in zip(table[at_4]["overlap"], table[PLAIN]["overlap"], strict=True)]
    return [
        Bar("overlap at strength 4 over that without control, largest of all seeds", max(ratios), 0.5),
        Bar("off mode at strength 4, largest of all seeds", max(table[at_4]["off mode"]), 0.01),
    ]


def main() -> int:
    """Draws, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    parser = by_seed.parser(__doc__)
    parser.add_argument("--run", type=Path, help="folder of a trained run whose attention is measured, too")
    parser.add_argument("--out", type=Path, help="PNG that the trade-off is drawn to")
    options = parser.parse_args()
    of_seeds = by_seed.for_seeds(options, partial(run, folder=options.run))
    table, *of_goals = (by_figure(tables) for tables in zip(*of_seeds, strict=True))
    if options.out is not None:
        picture(table, options.out)
    for goal, found in zip(GOALS, of_goals, strict=False):
        show(f"attention of the halves of an image, {goal}", found, [])
    return show("two subjects, exact velocity, 28 Euler steps", table, bars(table))


if __name__ == "__main__":
    raise SystemExit(main())
