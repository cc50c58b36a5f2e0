"""FLAIR by a run beside a run that was trained for holes: python -m tests.benchmarks.methods.flair_runs RUN TRAINED

RUN is one of configs/methods/latent_flow_matching.yaml and TRAINED one of configs/methods/latent_inpainting.yaml, on
the same latents. Both fill the same holes of the same held-out digits of 16 x 16 pixels, which the mask of TRAINED
draws for each seed, with 50 evaluations of their network; the observed pixels are put back.

* squared error: mean over the hidden pixels, values in [-1, 1], of one filling and of the mean of four;
* Fréchet: distance of the completed images to the learned ones. "True images" is the floor.

Both are asked without a class, and once more with the class of each digit. The seeds are of holes and draws; there is
one training of each run.
"""

import argparse
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

import trainer.data
from moe.seeds import fold_in
from tests.benchmarks.methods.bars import Bar, show
from trainer.evaluation.quality import frechet_distance
from trainer.flow import Condition
from trainer.flow.inverse import FlairConfig, agreeing
from trainer.flow.operator import Mask
from trainer.flow.sampler import Euler
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import states_of_images
from trainer.sampling.restoration import measured_errors
from trainer.sampling.trained import opened

SEEDS, SAMPLES, EVALUATIONS, NUM = (0, 1, 2), 4, 50, 360
FLAIR, TRAINED, MEAN, TRUE, OF_CLASS = "FLAIR", "trained for the holes", "mean fill", "true images", ", by class"
ERROR, OF_MEAN = "squared error", "of the mean of 4"


@dataclass(frozen=True)
class Holes:
    """Held-out images with holes.

    Attributes:
        images: [N, C, H, W] the true ones.
        labels: int64 [N] their classes.
        hole: bool [N, 1, H, W] the hidden pixels.
        learned: [M, C, H, W] images that both runs have learned from.
    """

    images: Tensor
    labels: Tensor
    hole: Tensor
    learned: Tensor

    def figures(self, fillings: list[Tensor]) -> dict[str, float]:
        """What some fillings [N, C, H, W] of all holes are worth."""
        found = {ERROR: fmean(self._error(one) for one in fillings), "Fréchet": self._frechet(fillings[0])}
        return found if len(fillings) == 1 else {**found, OF_MEAN: self._error(torch.stack(fillings).mean(0))}

    def _error(self, filled: Tensor) -> float:
        return float((filled - self.images)[self.hole.expand_as(filled)].square().mean())

    def _frechet(self, filled: Tensor) -> float:
        whole = torch.where(self.hole, filled, self.images)
        return frechet_distance(whole.flatten(1).double().numpy(), self.learned.flatten(1).double().numpy())


def by_trained(run: Path, seed: int) -> tuple[Holes, dict[str, list[Tensor]]]:
    """The holes of a seed, and what the run that was trained for them makes of them."""
    with opened(run) as flow:
        flow = flow.drawn_by(Euler(steps=EVALUATIONS))
        conditioning = flow.conditioning(NUM, seed=seed)
        assert conditioning.seen is not None
        assert conditioning.originals is not None
        dataset = trainer.data.build(flow.config.data)
        learned = dataset.get(trainer.data.first_data_points(dataset, "train", 10_000)).x_1
        holes = Holes(conditioning.originals, conditioning.labels, conditioning.seen.hole, learned)
        own = conditioning.condition
        nobody = Condition(label=torch.full_like(conditioning.labels, flow.parts.null_label), context=own.context)
        filled = {
            name: [
                flow.decode(flow.draw(condition, guidance=1.0, seed=100 * seed + number), conditioning)
                for number in range(SAMPLES)
            ]
            for name, condition in ((TRAINED, nobody), (TRAINED + OF_CLASS, own))
        }
    return holes, filled


@torch.no_grad()
def by_flair(run: Path, seed: int, holes: Holes) -> dict[str, list[Tensor]]:
    """What a run that has never seen a hole makes of the same ones."""
    with opened(run) as flow:
        classes = {FLAIR: None, FLAIR + OF_CLASS: holes.labels}
        return {name: _filled(flow, seed, holes, labels) for name, labels in classes.items()}


def _filled(flow: TrainedFlow, seed: int, holes: Holes, labels: Tensor | None) -> list[Tensor]:
    parts, operator = flow.parts, Mask(holes.hole)
    errors = measured_errors(flow, labelled=labels is not None, guidance=1.0, seed=seed, together=64)
    solver = FlairConfig(steps=EVALUATIONS).build(path=parts.path, errors=errors[None])
    label = torch.full((len(holes.images),), parts.null_label) if labels is None else labels
    field = parts.field(flow.model, Condition(label=label), 1.0)
    observed = operator.apply(holes.images)

    def decode(states: Tensor) -> Tensor:
        return parts.space.decode(parts.data_of(states))

    initial = states_of_images(parts.space, operator.pseudo_inverse(observed)) * parts.data_scale
    agreement = FlairConfig().agreement(operator, observed, decode=decode, initial=initial)
    keys = fold_in(torch.tensor(seed), torch.arange(len(holes.images)))

    def drawn(number: int) -> Tensor:
        return solver.solve(field, agreement, keys=fold_in(keys, number)).states

    return [agreeing(operator, observed, decode(drawn(number))) for number in range(SAMPLES)]


def main() -> int:
    """Measures all seeds, prints the table and the bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run that knows no holes")
    parser.add_argument("trained", type=Path, help="folder of the run that was trained for holes")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of holes and draws (default: 0 1 2)")
    options = parser.parse_args()
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in options.seeds:
        holes, filled = by_trained(options.trained, seed)
        filled |= by_flair(options.run, seed, holes)
        filled |= {MEAN: [holes.learned.mean(0).expand_as(holes.images)], TRUE: [holes.images]}
        for name, fillings in filled.items():
            for figure, value in holes.figures(fillings).items():
                rows[name][figure].append(value)
    ratio = fmean(rows[FLAIR][ERROR]) / fmean(rows[MEAN][ERROR])
    beside = fmean(rows[FLAIR][ERROR]) / fmean(rows[TRAINED][ERROR])
    print(f"FLAIR has {beside:.2f} times the squared error of the network that was trained for the holes")
    return show(f"{options.run} and {options.trained}", rows, [Bar("squared error over the mean fill", ratio, 1.0)])


if __name__ == "__main__":
    sys.exit(main())
