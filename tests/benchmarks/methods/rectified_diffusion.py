"""Rectified diffusion, whole and phased: python -m tests.benchmarks.methods.rectified_diffusion

A perceptron of 3 x 128 learns eight Gaussians (radius 4, deviation 0.3) along a quarter circle from N(0, I), predicting
v or the noise. It then learns again from 20,000 pairs that it has drawn in 100 first-order steps; phased, from pairs of
four segments of time, drawn in ten steps each. 1,500 steps of Adam each, batch 256. W2 is the distance of 2,000 samples
to 2,000 examples, its floor that of fresh examples; both are means over three such sets. Noise variance is that of the
predicted noise along a trajectory, for each coordinate; curvature is E int |x_t - chord|^2 dt / E |Z_1 - Z_0|^2. A
noise prediction says nothing of the data at t = 0: there, sampling begins at t = 0.02, and its student is compared in
the noise, since an error in the data would be weighted by (a / b)^2, 1,000 at that time. The error in the data is
quadratic up to the deviation of a blob: at the paper's scale of 0.001, meant for latents of unit deviation, all errors
count by their size alone; that student stands beside ours. The rival is rectified flow: the second flow of that
benchmark, along the straight path with the squared error, in as many steps of training.

Source: Wang et al., "Rectified Diffusion", arXiv 2410.07303.
"""

from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.methods.bars import Bar, by_figure, show
from tests.benchmarks.methods.by_seed import seeds_parser
from tests.benchmarks.methods.plain_loop import Data, PlainNetwork, eight_gaussians, flow_task, rows
from tests.benchmarks.methods.rectified_flow import PAIRED, PAIRS, POINTS, distance, learned
from tests.benchmarks.methods.rectified_flow import floor as floor_of
from trainer.flow import UNCONDITIONAL
from trainer.flow.coupling import Pairs
from trainer.flow.sampler import FirstOrder, Trajectory
from trainer.task import FlowTask

COUNTS = (1, 2, 4, 25)
SEGMENTS, FINE = 4, 100
FLOOR, BEGINS = "data floor", {"v_prediction": 0.0, "noise": 0.02}
STUDENT_LR = 6e-3
OBJECTIVES: dict[str, dict[str, Any]] = {
    "v_prediction": {"space": "data", "error": {"kind": "pseudo_huber", "scale": 0.3}},
    "noise": {"space": "prediction"},
}
PAPERS: dict[str, Any] = {"space": "data", "error": {"kind": "pseudo_huber", "scale": 1e-3}}
RIVAL = "rectified flow"


def flow(target: str, **changes: Any) -> dict[str, Any]:
    """The section of a configuration: the path, the prediction, and times away from where that says nothing."""
    margin = BEGINS[target]
    time = {"time": {"kind": "clipped", "margin": margin}} if margin else {}
    return {"path": {"kind": "trigonometric"}, "target": {"kind": target}, **time, **changes}


@torch.no_grad()
def drawn(task: FlowTask, network: nn.Module, start: Tensor, times: Tensor) -> Trajectory:
    """First-order steps along a grid."""
    field = task.parts.field(network, UNCONDITIONAL, 1.0)
    return FirstOrder().build(task.parts.path).sample(field, start, times)


def run(target: str, seed: int) -> dict[str, dict[str, float]]:
    """Trains a teacher and its students and measures each."""
    teacher = learned(flow(target), eight_gaussians(), PlainNetwork(2, hidden=128, layers=3, seed=seed), seed)
    task, begins = flow_task(flow(target)), BEGINS[target]
    x_0 = torch.randn(PAIRS, 2, generator=torch.Generator().manual_seed(2000 + seed))
    pairs = rows(drawn(task, teacher, x_0, torch.linspace(begins, 1, FINE + 1)).final, x_0=x_0)
    student = flow(target, coupling={"kind": "paired"}, objective=OBJECTIVES[target])
    found = {"teacher": teacher, "rectified": learned(student, pairs, teacher, seed + 100, lr=STUDENT_LR)}
    if not begins:
        papers = {**student, "objective": PAPERS}
        found["rectified, the paper's scale"] = learned(papers, pairs, teacher, seed + 100, lr=STUDENT_LR)
        segments = parts(task, teacher, x_0, seed)
        found["phased"] = learned(student, segments, teacher, seed + 200, lr=STUDENT_LR)
    return {f"{target}: {name}": figures(task, network, seed, begins) for name, network in found.items()}


def straight(seed: int) -> dict[str, dict[str, float]]:
    """Trains rectified flow, whose Euler steps are its first-order steps, and measures it."""
    task = flow_task()
    first = learned({}, eight_gaussians(), PlainNetwork(2, hidden=128, layers=3, seed=seed), seed)
    x_0 = torch.randn(PAIRS, 2, generator=torch.Generator().manual_seed(2000 + seed))
    pairs = rows(drawn(task, first, x_0, torch.linspace(0, 1, FINE + 1)).final, x_0=x_0)
    return {RIVAL: figures(task, learned(PAIRED, pairs, first, seed + 100), seed, 0.0)}


def parts(task: FlowTask, teacher: nn.Module, noise: Tensor, seed: int) -> Data:
    """Pairs of the two ends of a segment: noised examples, and where the teacher goes from there in ten steps."""
    generator = torch.Generator().manual_seed(4000 + seed)
    edges = torch.linspace(0, 1, SEGMENTS + 1)
    starts, ends, intervals = [], [], []
    for segment, own in enumerate(noise.chunk(SEGMENTS)):
        pairs = Pairs(own, eight_gaussians()(len(own), generator).x_1)
        interval = edges[segment : segment + 2]
        at = task.parts.path.sample(pairs, interval[:1].expand(len(own)), generator=generator).x_t
        starts.append(at)
        ends.append(
            drawn(task, teacher, at, torch.linspace(float(edges[segment]), float(edges[segment + 1]), 11)).final
        )
        intervals.append(interval.expand(len(own), 2))
    return rows(torch.cat(ends), x_0=torch.cat(starts), interval=torch.cat(intervals))


def figures(task: FlowTask, network: nn.Module, seed: int, begins: float) -> dict[str, float]:
    """Distances for each number of steps, and what the trajectories look like."""
    start = torch.randn(POINTS, 2, generator=torch.Generator().manual_seed(1000 + seed))
    paths = drawn(task, network, start, torch.linspace(begins, 1, FINE + 1))
    return {
        **{
            f"W2, {count}": distance(
                seed,
                lambda start, count=count: drawn(task, network, start, torch.linspace(begins, 1, count + 1)).final,
            )
            for count in COUNTS
        },
        "noise variance": noise_variance(task, network, paths),
        "curvature": curvature(paths),
    }


@torch.no_grad()
def noise_variance(task: FlowTask, network: nn.Module, paths: Trajectory) -> float:
    """Mean over trajectories and coordinates of the variance over time of the predicted noise."""
    field = task.parts.field(network, UNCONDITIONAL, 1.0)
    estimates = [
        field.estimate(x, t.expand(len(x)), "noise")[0] for x, t in zip(paths.x[:-1], paths.times[:-1], strict=True)
    ]
    return float(torch.stack(estimates).var(0, correction=0).mean())


def curvature(paths: Trajectory) -> float:
    """How far trajectories leave the straight line between their ends, in units of its length."""
    begin, end = paths.x[0], paths.final
    share = ((paths.times - paths.times[0]) / (paths.times[-1] - paths.times[0]))[:, None, None]
    away = (paths.x - torch.lerp(begin, end, share)).square().sum(-1).mean(1)
    return float(torch.trapezoid(away, share[:, 0, 0]) / (end - begin).square().sum(-1).mean())


def main() -> int:
    """Trains, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    parser = seeds_parser(__doc__)
    options = parser.parse_args()
    torch.set_num_threads(1)
    of_seeds = [
        {
            **run("v_prediction", seed),
            **run("noise", seed),
            **straight(seed),
            FLOOR: dict.fromkeys((f"W2, {count}" for count in COUNTS), floor_of(seed)["W2, 1"]),
        }
        for seed in options.seeds
    ]
    table = by_figure(of_seeds)

    def mean(name: str, figure: str) -> float:
        return fmean(table[name][figure])

    teacher, student, phased = (f"v_prediction: {name}" for name in ("teacher", "rectified", "phased"))
    falls = {
        target: mean(f"{target}: teacher", "noise variance") / mean(f"{target}: rectified", "noise variance")
        for target in BEGINS
    }
    return show(
        "N(0, I) to eight Gaussians along a quarter circle, by first-order steps",
        table,
        [
            Bar("noise variance: teacher over rectified", falls["v_prediction"], 20.0, at_least=True),
            Bar("W2, 1 step: rectified over the floor", mean(student, "W2, 1") / mean(FLOOR, "W2, 1"), 1.2),
            Bar("curvature: rectified", mean(student, "curvature"), 0.03, at_least=True),
            Bar("noise prediction, noise variance: teacher over rectified", falls["noise"], 20.0, at_least=True),
            Bar("W2, 4 steps: phased over the teacher", mean(phased, "W2, 4") / mean(teacher, "W2, 4"), 1.0),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
