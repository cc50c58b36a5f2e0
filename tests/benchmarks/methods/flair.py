"""FLAIR on 8 x 8 digits, beside its parts and other ways to restore: python -m tests.benchmarks.methods.flair

A perceptron of 3 x 256 that reads octaves of the time learns 1,500 digits without classes, in 4,000 steps of 256. 297
others are seen with a hole of 4 x 4 in the middle, or at half the resolution, and restored in 50 evaluations:

* squared error: mean over all pixels, values in [-1, 1]; residual: mean squared difference from the observations;
* energy: distance to the learned digits, the mean of 5 sets of restorations. The floor is that of the true images;
* rivals: replacement puts the observed part, with noise, into every state of Euler's method; gradient guidance steps
  down |A x_1 - y| through the network, by the best of five step sizes on these very images, and needs 50 gradients
  beside its 50 evaluations. At the end both put the observed part back.

Then two boxes are hidden in each image, as in configs/methods/latent_inpainting.yaml but on pixels: squared error over
the hole, beside a network of the same size that was trained on such holes and beside the mean of the learned digits.
Last, the same restorations in the latents of a variational autoencoder (16 values of unit variance), where the
calibrated weight vanishes: "least weight taken away" is the other substitute for it. Beside the trained network of
latent_flow_matching.py, on its digits and holes: flair_latents.py.

Source: Erbach et al., "Solving Inverse Problems with FLAIR", arXiv 2506.02680. The rivals: Lugmayr et al., "RePaint",
arXiv 2201.09865, without its repeated steps; Chung et al., "Diffusion Posterior Sampling", arXiv 2209.14687.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import fmean

import torch

from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.by_seed import seeds_parser
from tests.benchmarks.methods.flair_measurement import (
    BOXES,
    FLAIR,
    FRESH,
    MEAN,
    PINV,
    REPLACEMENT,
    SOFT,
    TASKS,
    Measurement,
    Tables,
    empty,
)


def bars(found: Tables) -> list[Bar]:
    """What has to be shown."""
    each = []
    for task in TASKS:
        table = found[task]
        hard, plain = table[FLAIR], fmean(table[PINV]["squared error"])
        soft = min(table[SOFT]["residual"]) / max(*hard["residual"], 1e-3)
        pairs = zip(hard["energy"], table[FRESH]["energy"], strict=True)
        seeds = sum(adjusted < fresh for adjusted, fresh in pairs)
        rival = fmean(table[REPLACEMENT]["squared error"])
        each += [
            Bar(f"{task}: squared error over that of the pseudo-inverse", fmean(hard["squared error"]) / plain, 0.65),
            Bar(f"{task}: largest residual", max(hard["residual"]), 1e-3),
            Bar(f"{task}: residual of soft consistency over the larger of that and 0.001", soft, 20, at_least=True),
            Bar(f"{task}: seeds whose energy the adjustment lowers", seeds, len(hard["energy"]), at_least=True),
            Bar(f"{task}: squared error over that of replacement", fmean(hard["squared error"]) / rival, 1.0),
            Bar(f"{task}: largest weight over noise level", max(hard["ratio"]), 2.0),
        ]
    hole = {name: fmean(figures["squared error over the hole"]) for name, figures in found[BOXES].items()}
    return [
        *each,
        Bar("two boxes: squared error over the hole, over that of the mean fill", hole[FLAIR] / hole[MEAN], 1),
    ]


def run(seed: int) -> Tables:
    """All figures of one seed."""
    torch.set_num_threads(1)
    found = empty()
    Measurement(seed, found).run()
    print(f"seed {seed} is done", file=sys.stderr, flush=True)
    return {table: {row: dict(figures) for row, figures in of_rows.items()} for table, of_rows in found.items()}


def main() -> int:
    """Measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    parser = seeds_parser(__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time, each in a process (default: 1)")
    options = parser.parse_args()
    found = empty()
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        for tables in pool.map(run, options.seeds):
            for table, own in tables.items():
                for row, figures in own.items():
                    for name, values in figures.items():
                        found[table][row][name] += values
    *others, last = found
    for name in others:
        show(f"8 x 8 digits, {name}", found[name], [])
    return show(f"8 x 8 digits, {last}", found[last], bars(found))


if __name__ == "__main__":
    raise SystemExit(main())
