"""Adjoint matching on a running cost: python -m tests.benchmarks.methods.adjoint_matching_cost

The states are the two subjects of `tests.benchmarks.methods.focus`, each at one of four corners, with the exact
velocity; the cost is `separation_cost` of their maps. A small network is added to the velocity and trained by adjoint
matching on weight x the integral of the cost over time. It is compared at equal mean divergence of its memoryless paths
from those of the base ("path KL", 40 steps):

* with the control along the gradient of the cost, weight 1 - t, whose strength is bisected to that divergence;
* with the best of n draws without control by their cost at the end, for the n whose divergence log n - (n - 1) / n is
  nearest.

overlap, off mode and cost are those of `focus`, of 4,000 ends of memoryless paths; "ODE overlap" is that of 28 steps of
Euler's method. Calls are those of one state in drawing; training has its own, told beside.

Source: Bill, Simsar and Hofmann, "Optimal Control Meets Flow Matching", arXiv 2510.02315; nobody has published this
comparison, and it has no bar.
"""

import math
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context

import torch
from pydantic import BaseModel
from torch import Tensor

from tests.benchmarks.methods import focus
from tests.benchmarks.methods.adjoint_matching import LEARNING_RATE, NODES, PATH_STEPS, WAYS, Beside, drawn, path_kl
from tests.benchmarks.methods.bars import by_figure, show
from tests.benchmarks.methods.by_seed import seeds_parser
from tests.benchmarks.methods.plain_loop import train
from trainer.config.file import resolve
from trainer.config.run import RunConfig
from trainer.data import Batch, Dataset, Split
from trainer.flow import UNCONDITIONAL, Condition, sampler
from trainer.flow.control import ControlInputs
from trainer.task.policy.adjoint_matching import AdjointMatching

WEIGHTS, STEPS, BATCH = (4.0, 16.0), 150, 128
EULER = sampler.Euler(steps=focus.STEPS)
BISECTIONS, MOST = 6, 64
Velocity = Callable[[Tensor, Tensor, Condition], Tensor]


class TwoPoints(Dataset):
    """States of four values, of which nothing but their shape is asked."""

    class Config(BaseModel):
        """Their shape."""

        shape: tuple[int] = (4,)
        num_classes: int = 0

    def __init__(self, config: Config) -> None:
        self.shape, self.num_classes = config.shape, config.num_classes

    def indices(self, split: Split) -> Tensor:
        """None."""
        del split
        return torch.arange(0)

    def get(self, indices: Tensor) -> Batch:
        """Zeros."""
        return Batch(torch.zeros(len(indices), 4), None, indices)


def exact(x: Tensor, t: Tensor, *_: object) -> Tensor:
    """The velocity of the base."""
    return focus.EXACT(x, t)


def matched(weight: float, seed: int) -> tuple[Beside, float]:
    """A network trained on a weight of the cost, and the network calls of its training."""
    document = {
        "run": {"dir": "unused"},
        "model": {"kind": "mlp"},
        "data": {"class": f"{__name__}:TwoPoints"},
        "optim": {"steps": 1, "global_batch": 1},
        "task": {
            "kind": "adjoint_matching",
            "steps": PATH_STEPS,
            "nodes": NODES,
            "cost": {"class": "tests.benchmarks.methods.focus:PointMaps"},
            "cost_weight": weight,
        },
    }
    task = AdjointMatching(RunConfig.model_validate(resolve(document).document), base=exact)
    network = Beside(exact, 4, 64, seed)

    def states(num: int, _generator: torch.Generator) -> Batch:
        return Batch(torch.zeros(num, 4), None, torch.arange(num))

    train(task, states, network, steps=STEPS, batch=BATCH, lr=LEARNING_RATE, seed=seed)
    return network, float(task.paths * (2 * PATH_STEPS + NODES))


def controlled(strength: float) -> Velocity:
    """The base under a control along the gradient of the cost."""
    inputs = ControlInputs(focus.LINEAR, UNCONDITIONAL, network=lambda *_: None)
    field = focus.configured(strength, weight="time", limit=None).build(inputs).over(focus.EXACT)
    return lambda x, t, _: field(x, t)


def of_equal_divergence(wanted: float) -> float:
    """The strength of a control whose paths have a divergence, by bisection of its logarithm."""
    low, high = 0.05, 200.0
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if path_kl(controlled(middle), exact, 4, 500) > wanted else (middle, high)
    return math.sqrt(low * high)


def best_of(num: int) -> Tensor:
    """The state of least cost at the end among `num` that the base draws."""
    states = drawn(exact, WAYS["SDE"], 4, num * focus.NUM).unflatten(0, (num, focus.NUM))
    least = torch.stack([focus.costs(one) for one in states]).argmin(0)
    return states[least, torch.arange(focus.NUM)]


def told(ends: Tensor) -> focus.Figures:
    """What is said of states."""
    cost = float(focus.costs(ends).mean())
    return {"overlap": focus.overlap(ends), "off mode": focus.off_mode(ends), "cost": cost}


def figures(velocity: Velocity) -> focus.Figures:
    """What is said of a velocity."""
    ordinary = drawn(velocity, EULER, 4, focus.NUM)
    found = told(drawn(velocity, WAYS["SDE"], 4, focus.NUM))
    return {**found, "ODE overlap": focus.overlap(ordinary), "path KL": path_kl(velocity, exact, 4)}


def run(job: tuple[float, int]) -> dict[str, focus.Figures]:
    """The rows of one weight and one seed."""
    weight, seed = job
    torch.set_num_threads(1)
    network, training = matched(weight, seed)
    own = figures(network)
    found = {"no control": figures(exact)}
    found["adjoint matching"] = {**own, "calls a draw": float(PATH_STEPS), "calls in training": training}
    strength = of_equal_divergence(own["path KL"])
    found["control, 1 - t"] = {**figures(controlled(strength)), "calls a draw": 3.0 * PATH_STEPS, "strength": strength}
    num = min(range(1, MOST), key=lambda n: abs(math.log(n) - (n - 1) / n - own["path KL"]))
    divergence = math.log(num) - (num - 1) / num
    found["best of n"] = {
        **told(best_of(num)),
        "path KL": divergence,
        "calls a draw": float(num * PATH_STEPS),
        "n": num,
    }
    print(f"weight {weight:g}, seed {seed}: {found}", file=sys.stderr, flush=True)
    return found


def main() -> int:
    """Trains, measures and prints.

    Returns:
        0; there are no bars.
    """
    parser = seeds_parser(__doc__)
    parser.add_argument("--weights", type=float, nargs="+", default=WEIGHTS, help="of the cost (default: 4 16)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each in a process (default: 1)")
    options = parser.parse_args()
    jobs = [*product(options.weights, options.seeds)]
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        found = dict(zip(jobs, pool.map(run, jobs), strict=True))
    for weight in options.weights:
        table = by_figure([found[weight, seed] for seed in options.seeds])
        show(f"two subjects, weight {weight:g} of the cost", table, [])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
