"""Objects that a trained policy builds: the sample verb of such runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from netsim.foundation.refusal import check_least
from netsim.foundation.terminal import Terminal
from trainer.checkpoint.intact import with_newest
from trainer.config.file import load_run
from trainer.config.run import RunConfig
from trainer.config.sample import ObjectSample
from trainer.config.task.trajectory_balance import SingleConfig
from trainer.model.network import Network
from trainer.sampling.trained import opened_network
from trainer.task import TrajectoryBalanceTask
from trainer.task.objects import draw_objects, drawable, write_objects


@dataclass(frozen=True)
class TrainedPolicy:
    """A trained policy in evaluation mode, with its averaged weights."""

    config: RunConfig
    task: TrajectoryBalanceTask
    model: Network
    checkpoint: str


@dataclass(frozen=True, kw_only=True)
class ObjectsRequest:
    """Request for objects of a run: number for each preference, exponent of the reward, file for lines and a picture.

    Options that are None or empty keep the settings by which the run shows its objects.
    """

    run_dir: Path
    num: int | None = None
    preferences: tuple[str, ...] = ()
    exponent: float | None = None
    seed: int = 0
    out: Path

    def check(self) -> None:
        """Refuses numbers that are too small, and an output file of another type."""
        check_least(("--num", self.num, 1), ("--seed", self.seed, 0))
        if self.out.suffix not in (".jsonl", ".png"):
            raise ValueError(
                f"--out: {self.out} does not end in .jsonl; the objects are lines of JSON, and their picture FILE.png "
                f"stands beside FILE.jsonl; use {self.out.with_suffix('.jsonl')}"
            )

    def weights(self, task: TrajectoryBalanceTask, sample: ObjectSample) -> Tensor:
        """The preferences, float64 [N, K]; `sample` is how the run itself shows objects."""
        if not self.preferences:
            return task.preferences(sample.divisions)
        names, single = task.environment.objectives, task.settings.preferences
        if isinstance(single, SingleConfig):
            learned = ",".join(f"{one:g}" for one in single.weights)
            raise ValueError(f"--preference: {self.run_dir} has learned {learned} alone; leave the option out")
        return torch.tensor([_weights(text, names) for text in self.preferences], dtype=torch.float64)


def builds_objects(run_dir: Path) -> bool:
    """Whether a run has learned to build objects; False if it has no folder."""
    if not run_dir.exists():
        return False
    return isinstance(with_newest(run_dir, load_run).sample, ObjectSample)


@contextmanager
def opened_policy(run_dir: Path) -> Iterator[TrainedPolicy]:
    """Restores the averaged weights of a run's newest intact checkpoint, whole on each process."""
    with opened_network(run_dir) as restored:
        yield TrainedPolicy(
            restored.config, TrajectoryBalanceTask(restored.config), restored.model, restored.checkpoint
        )


def run(request: ObjectsRequest) -> int:
    """Builds objects and writes them as lines of JSON, and as a picture where they make one."""
    request.check()
    with opened_policy(request.run_dir) as policy:
        task, sample = policy.task, policy.config.sample
        assert isinstance(sample, ObjectSample)
        preferences, num = request.weights(task, sample), request.num or sample.num
        exponent = sample.exponent if request.exponent is None else request.exponent
        if exponent is not None:
            task.settings.check_exponent(exponent, "--exponent")
        with Terminal(stderr=True, quiet=dist.get_rank() > 0).status(f"building {num} objects of each preference"):
            built = task.built(policy.model, preferences, num, exponent=exponent, seed=request.seed)
        if dist.get_rank() > 0:
            return 0
        lines, picture = request.out.with_suffix(".jsonl"), request.out.with_suffix(".png")
        write_objects(task.environment, built, lines)
        print(f"{lines}: {num * len(built)} objects of {policy.checkpoint}, {num} for each of {len(built)} preferences")
        if drawable(task.environment):
            draw_objects(task.environment, built, picture)
            print(f"{picture}: the same as a picture")
    return 0


def _weights(text: str, names: tuple[str, ...]) -> list[float]:
    """Reads the weights of the objectives, in their order, from a text such as ``0.5,0.5``."""
    try:
        weights = [float(word) for word in text.split(",")]
    except ValueError:
        weights = []
    example = ",".join(f"{1 / len(names):.3g}" for _ in names)
    if len(weights) != len(names) or not all(0 <= weight <= 1 for weight in weights):
        raise ValueError(
            f"--preference: {text!r} is not a number from 0 to 1 for each of {', '.join(names)}; use for example "
            f"{example}"
        )
    if abs(sum(weights) - 1) > 1e-2:
        raise ValueError(
            f"--preference: {text} sums to {sum(weights):g}; give weights that sum to 1, such as {example}"
        )
    return [weight / sum(weights) for weight in weights]
