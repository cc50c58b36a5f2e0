"""Searched step sizes of the mixture of the demo: python -m tests.benchmarks.methods.boss_mixture

Trains configs/runs/digits_moe.yaml with the settings of `make demo` on one rank (600 steps, eight experts, two of them
a token), searches grids of 4 and 6 steps of Euler's method with the 100 noises of the steps verb at guidance 1, at
which `evaluate` measures distances, and draws 1,000 images of each grid from the same fresh noises. The Fréchet
distance is that of the pixels to the digits of the training split. Beside the grids stand equal steps, the times of EDM
(rho = 7), Heun's method at as many evaluations, and the run's own 20 equal steps; "data floor" is the distance between
two halves of the digits.
"""

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tests.benchmarks.methods import by_seed
from tests.benchmarks.methods.bars import Bar, by_figure, show
from tests.benchmarks.methods.boss import CHORD, EDM, ENDPOINT, HEUN, UNIFORM, edm_times
from tests.forked import ROOT
from trainer.__main__ import main as trainer_main
from trainer.evaluation.judgement import parted, real_examples
from trainer.evaluation.quality import frechet_distance
from trainer.flow import sampler
from trainer.flow.sampler import Euler, Heun
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.fine_grid import Noises, times_of
from trainer.sampling.step_search import StepsRequest, search
from trainer.sampling.trained import opened

COUNTS, NUM, NODES, TOGETHER = (4, 6), 1000, 100, 500
SETTINGS = ("moe.top_k=2", "moe.dispatch=copies", "parallel.expert=1")
QUIET = ("trace.steps=[]", "sample.every=null", "evaluate.every=null", "checkpoint.every=600", "checkpoint.keep=1")
FLOOR, OWN = "data floor", "20 equal steps"
Figures = dict[str, float]


def run(counts: tuple[int, ...], seed: int) -> dict[str, Figures]:
    """Trains, searches, draws and measures with one seed."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = str(ROOT / "configs" / "runs" / "digits_moe.yaml")
        if trainer_main(["train", config, *SETTINGS, *QUIET, f"run.dir={folder}", f"run.seed={seed}"]):
            raise RuntimeError("the run did not train")
        with opened(Path(folder)) as flow:
            return distances(flow, counts, seed)


def distances(flow: TrainedFlow, counts: tuple[int, ...], seed: int) -> dict[str, Figures]:
    """Fréchet distances by way to step."""
    request = StepsRequest(run=Path("unused"), evaluations=counts, guidance=1.0, seed=1000 + seed)
    noises = Noises(flow, request.num, guidance=1.0, seed=request.seed)
    grids = search(noises.solutions(torch.arange(request.num), NODES), request).grids
    real, _ = real_examples(flow.config, flow.parts.space)
    found: dict[str, Figures] = {name: {} for name in (UNIFORM, CHORD, ENDPOINT, EDM, HEUN)}
    for count, own in grids.items():
        times = {name: times_of(own[kind], NODES) for name, kind in ((CHORD, "chord"), (ENDPOINT, "endpoint"))}
        ways: dict[str, sampler.AnyConfig] = {name: Euler(times=grid) for name, grid in times.items()}
        ways[UNIFORM] = Euler(steps=count)
        ways[EDM] = Euler(times=tuple(edm_times(count).tolist()))
        ways[HEUN] = Heun(steps=count // 2)
        for name, chosen in ways.items():
            found[name][f"Fréchet, {count}"] = frechet_distance(drawn(flow, chosen, seed), real.numpy())
    fine = frechet_distance(drawn(flow, flow.sample.sampler, seed), real.numpy())
    floor = frechet_distance(*parted(real.numpy(), NUM, seed=seed))
    found |= {OWN: {f"Fréchet, {count}": fine for count in counts}}
    return found | {FLOOR: {f"Fréchet, {count}": floor for count in counts}}


def drawn(flow: TrainedFlow, chosen: sampler.AnyConfig, seed: int) -> NDArray[np.float32]:
    """Images [N, *shape], the classes in turn."""
    conditioning = flow.conditioning(NUM, seed=seed)
    parts = [
        flow.follow(conditioning.condition, own, chosen, guidance=1.0, seed=seed).final
        for own in torch.arange(NUM).split(TOGETHER)
    ]
    return flow.decode(flow.parts.data_of(torch.cat(parts)), conditioning).numpy()


def bars(counts: Sequence[int], of_seeds: Sequence[Mapping[str, Figures]]) -> list[Bar]:
    """In how many seeds a searched grid has the lower distance."""
    found = []
    for count in counts:
        for name in (ENDPOINT, CHORD):
            figure = f"Fréchet, {count}"
            lower = sum(tables[name][figure] < tables[UNIFORM][figure] for tables in of_seeds)
            found.append(Bar(f"seeds of lower distance, {name}, {count}", lower, len(of_seeds), at_least=True))
    return found


def main() -> int:
    """Trains, searches, draws, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    parser = by_seed.parser(__doc__)
    parser.add_argument("--evaluations", type=int, nargs="+", default=COUNTS, help="even numbers (default: 4 6)")
    options = parser.parse_args()
    of_seeds = by_seed.for_seeds(options, partial(run, tuple(options.evaluations)))
    table = by_figure(of_seeds)
    return show("digits_moe, guidance 1", table, bars(options.evaluations, of_seeds))


if __name__ == "__main__":
    raise SystemExit(main())
