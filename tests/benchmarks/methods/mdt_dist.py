"""Marginal-data transport distillation: python -m tests.benchmarks.methods.mdt_dist

Teachers carry N(0, I) to eight Gaussians (radius 3, deviation 0.25) by a perceptron of 3 x 128, and to 8 x 8 digits,
64 values, by one of 3 x 256. Students begin with a teacher's weights and are trained as long as each other: velocity
matching (VM), with velocity distillation of the distribution (VM + VD), and consistency distillation (CM); VM and CM
each with the weight of the other beside its own. The rivals need pairs that the teacher has drawn: reflow, and reflow
distilled to one step, which is trained as long as a student and then once more.

The energy distance of 2,000 samples is to 2,000 fresh points, or to 297 digits that nothing has learned; it is a mean
over three such sets. It is unbiased, so that its floor, that of fresh points or of the digits that were learned, is
around 0 on points. Two steps are Euler's, which takes the mean velocity for a velocity, or noise the first estimate of
the data anew.

Source: "Few-step Flow for 3D Generation via Marginal-Data Transport Distillation", arXiv 2509.04406.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from netsim.foundation.run_reference import ReferenceConfig
from tests.benchmarks.methods.bars import Bar, by_figure, show
from tests.benchmarks.methods.by_seed import seeds_parser
from tests.benchmarks.methods.plain_loop import Data, PlainNetwork, eight_gaussians, flow_task, follow, rows, train
from trainer.evaluation.quality import energy_distance
from trainer.flow import Condition, objective, sampler
from trainer.flow.objective import LossTerms, Model, Objective
from trainer.flow.path import PathSample
from trainer.task import FlowTask

BATCH, POINTS, SETS, EMA, STEP = 256, 2000, 3, 0.995, 0.01
TEACHER, VM, BOTH, CM = "teacher", "VM", "VM + VD", "CM"
VM_WEIGHTED, CM_UNWEIGHTED = "VM with the weight of CM", "CM without its weight"
REFLOW, DISTILLED, FLOOR = "reflow", "reflow, distilled", "data floor"
ONE = "1 step"
SAMPLERS: dict[str, sampler.AnyConfig] = {
    ONE: sampler.Euler(steps=1),
    "2 steps": sampler.Euler(steps=2),
    "2 steps, renoised": sampler.Renoise(steps=2),
    "25 steps": sampler.Euler(steps=25),
}
ANY_RUN = ReferenceConfig.model_validate({"run": "unused"})


@dataclass(frozen=True)
class Setting:
    """What is learned, by what, and for how long.

    Attributes:
        name: of the data.
        data: what is learned.
        real: from a number and a generator to points that samples are compared with.
        fresh: from a number and a generator to what perfect samples would be.
        values: of a point.
        hidden: width of the network, of three layers.
        teacher_steps: steps of training of the teacher.
        student_steps: steps of training of each student.
        bar: the energy of VM in one step over that of the teacher, at most.
    """

    name: str
    data: Data
    real: Callable[[int, torch.Generator], Tensor]
    fresh: Callable[[int, torch.Generator], Tensor]
    values: int
    hidden: int
    teacher_steps: int
    student_steps: int
    bar: float


class Frozen:
    """The flow of a network of this process."""

    def __init__(self, task: FlowTask, network: nn.Module) -> None:
        self._task, self._network = task, network

    def field(self, condition: Condition, guidance: float, device: torch.device) -> sampler.Field:  # noqa: ARG002
        """See `FrozenFlow.field`."""
        return self._task.parts.field(self._network, condition, guidance)


class Weighted(Objective):
    """Another objective times the weight (1 - t) step that consistency has."""

    def __init__(self, inner: objective.VelocityDistillation) -> None:
        self._inner = inner

    def loss(self, model: Model, sample: PathSample, condition: Condition) -> LossTerms:
        """See `Objective.loss`."""
        found, left = self._inner.loss(model, sample, condition), (1 - sample.t)[:, None]
        return LossTerms(left * left.clamp(max=STEP) * found.values, found.terms)


def settings() -> tuple[Setting, ...]:
    """Points and digits."""
    points = eight_gaussians(3.0, 0.25)

    def drawn(num: int, generator: torch.Generator) -> Tensor:
        return points(num, generator).x_1

    pixels, _ = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels / 8 - 1).float()
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    learned, held_out = images[297:], images[:297]
    return (
        Setting("eight Gaussians", points, drawn, drawn, 2, 128, 2000, 1000, 0.05),
        Setting("digits", rows(learned), lambda *_: held_out, lambda *_: learned, 64, 256, 2500, 1000, 0.15),
    )


def run(setting: Setting, seed: int) -> dict[str, dict[str, float]]:
    """Trains a teacher and every student of it, and measures each."""
    plain = flow_task()
    untrained = PlainNetwork(setting.values, hidden=setting.hidden, layers=3, seed=seed)

    def learned(network: nn.Module, data: Data, steps: int, lr: float, turn: int, **changed: Any) -> nn.Module:
        task = flow_task(changed.get("flow"))
        task.objective = changed.get("objective", task.objective)
        begun = copy.deepcopy(network).requires_grad_(True)
        return train(task, data, begun, steps=steps, batch=BATCH, lr=lr, seed=seed + 100 * turn, ema=EMA)

    teacher = learned(untrained, setting.data, setting.teacher_steps, 2e-3, 0).requires_grad_(False)
    frozen = Frozen(plain, teacher)
    inputs = objective.ObjectiveInputs(plain.parts.target, reference=frozen)
    matching, both = (
        objective.VelocityDistillation(teacher=ANY_RUN, step=STEP, weight_distribution=weight).build(inputs)
        for weight in (0.0, 1.0)
    )
    consistent, unweighted = (
        objective.ConsistencyDistillation(teacher=ANY_RUN, step=STEP, weighted=weighted).build(inputs)
        for weighted in (True, False)
    )
    students = {
        VM: matching,
        BOTH: both,
        VM_WEIGHTED: Weighted(matching),
        CM: consistent,
        CM_UNWEIGHTED: unweighted,
    }
    networks = {TEACHER: teacher} | {
        name: learned(teacher, setting.data, setting.student_steps, 5e-4, 1, objective=chosen)
        for name, chosen in students.items()
    }
    x_0 = torch.randn(20_000, setting.values, generator=torch.Generator().manual_seed(2000 + seed))
    pairs = rows(follow(plain, teacher, x_0, config=sampler.Heun(steps=15)).final, x_0=x_0)
    paired: dict[str, Any] = {"coupling": {"kind": "paired"}}
    networks[REFLOW] = learned(teacher, pairs, setting.student_steps, 1e-3, 2, flow=paired)
    at_the_start = {**paired, "time": {"kind": "grid", "steps": 1}}
    networks[DISTILLED] = learned(networks[REFLOW], pairs, setting.student_steps, 1e-3, 3, flow=at_the_start)
    return {name: figures(setting, plain, network, seed, name) for name, network in networks.items()} | {
        FLOOR: {ONE: energy(setting, seed, setting.fresh)}
    }


def figures(setting: Setting, task: FlowTask, network: nn.Module, seed: int, name: str) -> dict[str, float]:
    """Energy distances by sampler; of a network that was trained for one step, with one alone."""
    chosen = [ONE] if name == DISTILLED else list(SAMPLERS)
    if name not in (TEACHER, REFLOW):
        chosen = [one for one in chosen if not one.startswith("25")]

    def drawn(one: str) -> Callable[[int, torch.Generator], Tensor]:
        def draw(num: int, generator: torch.Generator) -> Tensor:
            start = torch.randn(num, setting.values, generator=generator)
            return follow(task, network, start, config=SAMPLERS[one], seed=seed).final

        return draw

    return {one: energy(setting, seed, drawn(one)) for one in chosen}


def energy(setting: Setting, seed: int, drawn: Callable[[int, torch.Generator], Tensor]) -> float:
    """Mean energy distance of what is drawn to real points, over the sets of a seed."""
    found = []
    for number in range(SETS):
        generator = torch.Generator().manual_seed(1000 * (number + 1) + seed)
        real = setting.real(POINTS, generator)
        found.append(energy_distance(drawn(POINTS, generator).numpy(), real.numpy()))
    return fmean(found)


def main() -> int:
    """Trains, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    parser = seeds_parser(__doc__)
    names = [setting.name for setting in settings()]
    parser.add_argument("--data", choices=names, nargs="+", default=names, help="default: both")
    options = parser.parse_args()
    torch.set_num_threads(1)
    missed = 0
    for setting in settings():
        if setting.name not in options.data:
            continue
        of_seeds = [run(setting, seed) for seed in options.seeds]
        table = by_figure(of_seeds)
        one = {name: fmean(found[ONE]) for name, found in table.items()}
        missed |= show(
            f"N(0, I) to {setting.name}: energy distance",
            table,
            [
                Bar("1 step: VM over the teacher", one[VM] / one[TEACHER], setting.bar),
                Bar("1 step: VM + VD over VM", one[BOTH] / one[VM], 1.1),
            ],
        )
    return missed


if __name__ == "__main__":
    raise SystemExit(main())
