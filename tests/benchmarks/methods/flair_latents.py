"""FLAIR beside a network trained for holes, also in latents: python -m tests.benchmarks.methods.flair_latents

The trained rival is that of tests/benchmarks/methods/latent_flow_matching.py: a perceptron of 3 x 256 that reads an
image with a hole, taught for 2,400 steps of 256 on 1,437 digits. FLAIR has the same perceptron without anything beside
the state, taught for as many steps. Both fill the same holes of the 360 digits that were held out:

* a hole of 4 x 4 in the middle of 8 x 8 digits, in latents of 16 values, as that benchmark measures it;
* two boxes of a quarter to a half of the side in 16 x 16 digits (whose pixels are those of 8 x 8, each four times), the
  masks of configs/methods/latent_inpainting.yaml, on pixels and in latents of 4 x 8 x 8 values, as in that file.

All have 50 evaluations of their network, and the observed pixels are put back; the trained network also has 20, as in
its own benchmark. FLAIR's weight is measured by 100 more evaluations of 256 learned digits, once for a network.
Replacement uses FLAIR's network: on pixels it puts the observed part, with noise, into every state; in latents, into
the decoded expectation of every state. In latents FLAIR also needs a gradient through the decoder for each evaluation.
"Reconstructed" is what the autoencoder makes of the true images. The slow problem, boxes in latents, takes the first
seed only.

* squared error: mean over the hidden pixels, values in [-1, 1];
* Fréchet: distance of the completed images to the learned ones.

Fillings that vary less are nearer to the truth in squared error, so the means of 4 and the Fréchet distances tell more
than one filling of each. On 16 x 16 pixels the perceptron is too small to be a rival: what it draws after training for
holes is farther from the truth than the mean fill, at twice the width still, though by less.
"""

import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

from moe.seeds import fold_in
from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.by_seed import seeds_parser
from tests.benchmarks.methods.inverse_rivals import replacement, replacement_in_latents
from tests.benchmarks.methods.latent_flow_matching import (
    CLASSES,
    FLAT_VAE,
    INPAINTING_STEPS,
    VAE,
    Components,
    Measurement,
    Rows,
)
from tests.benchmarks.methods.plain_loop import flow_task, follow, frechet_distance
from trainer.config.model import AutoencoderConfig
from trainer.data import SPLITS, DigitsConfig
from trainer.flow import Condition
from trainer.flow.context import BoxesConfig, CentreConfig, Identity, Space
from trainer.flow.inverse import Flair, FlairConfig, agreeing, calibration_errors
from trainer.flow.operator import Mask
from trainer.flow.sampler import Field
from trainer.task import FlowTask

EVALUATIONS, TOLD, CALIBRATION, SAMPLES = 50, 20, 256, 4
LATENTS = FLAT_VAE.model_copy(update={"latent_channels": 4})
"""The sizes of configs/runs/digits_autoencoder.yaml, trained for as long as the other autoencoders here."""
FLAIR, TRAINED, REPLACEMENT, MEAN = "FLAIR", "trained for the holes", "replacement", "mean fill"
ERROR = "squared error over the hole"


@dataclass(frozen=True)
class Problem:
    """Images, the holes in them, and the states of the flow that fills them.

    Attributes:
        name: in words.
        size: pixels a side.
        mask: of the holes.
        coder: autoencoder to train; "components": the principal ones; None: states are pixels.
        slow: whether one seed takes minutes, so that only the first is measured.
    """

    name: str
    size: int
    mask: CentreConfig | BoxesConfig
    coder: AutoencoderConfig | str | None
    slow: bool = False


PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem("hole in the middle, components", 8, CentreConfig(), "components"),
        Problem("hole in the middle, variational", 8, CentreConfig(), VAE),
        Problem("two boxes, pixels", 16, BoxesConfig(), None),
        Problem("two boxes, latents", 16, BoxesConfig(), LATENTS, slow=True),
    )
}


class Filling(Measurement):
    """All that fills the holes of one problem.

    Args:
        seed: of the networks and all draws.
        problem: what is filled.
        found: where figures go.
    """

    def __init__(self, seed: int, problem: Problem, found: Rows) -> None:
        super().__init__(seed, found)
        if problem.size == 16:
            digits = DigitsConfig(held_out=360, size=16).open()
            self.images, self.held_out = (digits.get(digits.indices(split)).x_1 for split in SPLITS)
        self.problem, self.space = problem, self._space_of(problem)
        self.task = self._task(context={"kind": "inpainting", "mask": problem.mask.model_dump()})
        assert self.task.parts.context is not None
        self.seen = self.task.parts.context.draw(self.held_out, self.space, generator=self._generator())
        self.operator = Mask(self.seen.hole)
        self.observed = self.operator.apply(self.held_out)
        self.keys = fold_in(torch.tensor(1000 + seed), torch.arange(len(self.held_out)))

    def run(self) -> None:
        """Trains both networks and fills."""
        self._fill(MEAN, [self.images.mean(0).expand_as(self.held_out)])
        if self.problem.coder is not None:
            shown = self.space.decode(self.space.encode(self.held_out, generator=self._generator()))
            self._fill("reconstructed", [shown])
        states = self._states(self.space)
        self.state_shape = states.shape[1:]
        known = self.seen.context[0].numel()
        trained = self._network(self.task, states.shape[1:], context_values=known, steps=INPAINTING_STEPS)
        self._fill(f"{TRAINED}, {TOLD} evaluations", [self._by_trained(trained, 0, TOLD)])
        self._fill(TRAINED, [self._by_trained(trained, number, EVALUATIONS) for number in range(SAMPLES)])
        self._without_training_for_holes(states)

    def _without_training_for_holes(self, states: Tensor) -> None:
        task = self._task()
        task.label_dropout = 1.0
        network = self._network(task, states.shape[1:], context_values=0, steps=INPAINTING_STEPS)
        learned = task.parts.field(network, unlabelled(CALIBRATION), 1.0)
        field = task.parts.field(network, unlabelled(len(self.held_out)), 1.0)
        keys = fold_in(torch.tensor(2000 + self.seed), torch.arange(CALIBRATION))
        errors = calibration_errors(learned, states[:CALIBRATION], task.parts.path, keys)
        solver = FlairConfig(steps=EVALUATIONS).build(path=task.parts.path, errors=errors)
        drawn = [self._by_flair(solver, field, number) for number in range(SAMPLES)]
        self._fill(FLAIR, drawn)
        self._note(FLAIR, ratio=solver.largest_ratio, vanished=float(solver.vanished))
        self._fill(REPLACEMENT, [self._by_replacement(field, number) for number in range(SAMPLES)])

    def _by_trained(self, network: nn.Module, number: int, steps: int) -> Tensor:
        condition = Condition(label=unlabelled(len(self.held_out)).label, context=self.seen.context)
        final = follow(self.task, network, self._noise(number), steps, condition=condition, seed=self.seed).final
        return self._images_of(final)

    def _by_flair(self, solver: Flair, field: Field, number: int) -> Tensor:
        decode, initial = None, None
        if self.problem.coder is not None:
            decode = self._images_of
            initial = self.space.encode(self.observed, generator=self._generator())
        agreement = FlairConfig().agreement(self.operator, self.observed, decode=decode, initial=initial)
        return self._images_of(solver.solve(field, agreement, keys=fold_in(self.keys, number)).states)

    def _by_replacement(self, field: Field, number: int) -> Tensor:
        noise = self._noise(number)
        if self.problem.coder is None:
            return replacement(field, noise, self.operator, self.observed, EVALUATIONS)
        generator = self._generator()
        final = replacement_in_latents(
            field,
            noise,
            self.operator,
            self.observed,
            EVALUATIONS,
            decode=self._images_of,
            encode=lambda images: self.space.encode(images, generator=generator),
        )
        return self._images_of(final)

    def _images_of(self, states: Tensor) -> Tensor:
        return self.space.decode(self.task.parts.data_of(states))

    def _noise(self, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * (number + 1) + self.seed)
        return torch.randn(len(self.held_out), *self.state_shape, generator=generator)

    def _fill(self, row: str, drawn: list[Tensor]) -> None:
        """Notes the first of several fillings, and their mean if there are several."""
        fillings = {row: drawn[0]}
        if len(drawn) > 1:
            fillings[f"{row}, mean of {len(drawn)}"] = torch.stack(drawn).mean(0)
        for name, images in fillings.items():
            completed = agreeing(self.operator, self.observed, images)
            wrong = (completed - self.held_out).square().masked_select(self.operator.hole).mean()
            distance = frechet_distance(completed.numpy(), self.images.numpy())
            self._note(name, **{ERROR: float(wrong), "Fréchet": distance})

    def _space_of(self, problem: Problem) -> Space:
        match problem.coder:
            case None:
                return Identity()
            case AutoencoderConfig() as config:
                return self._space(self._trained(config))
            case _:
                return self._space(Components(self.images))

    def _task(self, **flow: object) -> FlowTask:
        task = flow_task(flow, model={"kind": "dit"})
        task.parts.space = self.space
        return task


def unlabelled(num: int) -> Condition:
    """The condition of examples without a class."""
    return Condition(label=torch.full((num,), CLASSES))


def bar(name: str, found: Rows) -> Bar:
    """FLAIR is nearer than the mean of the learned images."""
    error = {row: fmean(figures[ERROR]) for row, figures in found.items()}
    told = f"{name}: error of FLAIR, at most that of the mean fill ({TRAINED}: {error[TRAINED]:.3g})"
    return Bar(told, error[FLAIR], error[MEAN])


def main() -> int:
    """Measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    parser = seeds_parser(__doc__)
    parser.add_argument("--problems", nargs="+", choices=[*PROBLEMS], default=[*PROBLEMS], help="default: all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    missed = 0
    for name in options.problems:
        found: Rows = defaultdict(lambda: defaultdict(list))
        problem = PROBLEMS[name]
        for seed in options.seeds[:1] if problem.slow else options.seeds:
            began = time.perf_counter()
            Filling(seed, problem, found).run()
            print(f"{name}, seed {seed}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        missed |= show(f"{problem.size} x {problem.size} digits, {name}", found, [bar(name, found)])
    return missed


if __name__ == "__main__":
    raise SystemExit(main())
