"""What is measured of one trained network and drawn from it; kept in the folder of its run, so that it is done once."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import trainer.data
from netsim.foundation.files import replacing
from trainer.checkpoint.intact import newest_checkpoint
from trainer.config.sample import PointSample
from trainer.evaluation.evaluation import TRANSPORTED, evaluate
from trainer.evaluation.frechet import frechet_distance
from trainer.evaluation.judgement import parted
from trainer.evaluation.real import real_examples
from trainer.evaluation.transport import wasserstein_2
from trainer.flow import sampler
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.trained import opened

MEASURED, DRAWN = "measured.json", "drawn.npz"
"""In the folder of a run: the request and what ``evaluate`` writes; the samples."""
FLOOR_DRAWS = 8
POINTS, NUM_TRAJECTORIES, TRAJECTORY_STATES = 1000, 96, 41
TRAJECTORIES = "ways"
"""Key of the trajectories in ``drawn.npz``, the same as in the folders of earlier comparisons."""
PER_CLASS, COLUMNS = 3, 8
"""Images of each class, in rows below each other; images of a row where there are no classes."""


@dataclass(frozen=True)
class MeasurementSpec:
    """Measurement of every network: numbers of evaluations, samples of each set, and the real examples."""

    evaluations: tuple[int, ...]
    num: int
    data: trainer.data.AnyConfig

    @property
    def few(self) -> int:
        """The number of evaluations of the pictures of quick samples: the second smallest."""
        return sorted(self.evaluations)[min(1, len(self.evaluations) - 1)]

    @property
    def many(self) -> int:
        """The number of evaluations of the pictures of careful samples."""
        return max(self.evaluations)

    def request(self, checkpoint: str, seed: int) -> dict[str, Any]:
        """What is measured of one network, as JSON keeps it; the data are those of the whole comparison."""
        return {
            "checkpoint": checkpoint,
            "seed": seed,
            "evaluations": list(self.evaluations),
            "num": self.num,
            "counted": ["calls", "multiply_adds"],
        }


def measure_network(run_dir: Path, spec: MeasurementSpec, seed: int, progress: Callable[[str], None]) -> dict[str, Any]:
    """Measures a network and draws from it, unless that has been done; the document that ``evaluate`` writes."""
    request = spec.request(newest_checkpoint(run_dir).name, seed)
    kept = _kept(run_dir, request)
    if kept is not None:
        return kept
    with opened(run_dir, spec.data) as flow:
        figures = evaluate(
            flow,
            evaluations=spec.evaluations,
            num=spec.num,
            seed=seed,
            progress=progress,
        )
        progress("drawing pictures")
        with replacing(run_dir / DRAWN) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **_drawn(flow, spec, seed))
    evaluation = figures.to_dict()
    with replacing(run_dir / MEASURED) as temporary:
        temporary.write_text(json.dumps({"asked": request, "evaluation": evaluation}) + "\n", encoding="utf-8")
    return evaluation


def floor(run_dir: Path, spec: MeasurementSpec, measure: str) -> list[float]:
    """The distances, by a key of :data:`QUALITY`, between two sets of real examples, for several such pairs."""
    with opened(run_dir, spec.data) as flow:
        real, _ = real_examples(flow.config, flow.parts.space)
    distances = []
    for seed in range(FLOOR_DRAWS):
        one, other = parted(real.numpy(), spec.num, seed=seed)
        if measure == "frechet_distance":
            distances.append(frechet_distance(one, other))
        else:
            distances.append(wasserstein_2(one[:TRANSPORTED], other[: min(TRANSPORTED, len(one))]))
    return distances


def drawn(run_dir: Path) -> dict[str, NDArray[np.float32]]:
    """Samples drawn from a network: ``few`` and ``many`` [N, *shape], each in so many ``evaluations``, int [2].

    Of points in the plane also :data:`TRAJECTORIES` [T, N, 2], the states of some of them from noise to sample.
    """
    with np.load(run_dir / DRAWN, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _kept(run_dir: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """Figures of an earlier start by the same request; None if absent.

    The request is compared, not the figures: a network may be capable of fewer evaluations than were requested.
    """
    path = run_dir / MEASURED
    if not path.exists() or not (run_dir / DRAWN).exists():
        return None
    kept = json.loads(path.read_text(encoding="utf-8"))
    return kept["evaluation"] if kept["asked"] == request else None


def _drawn(flow: TrainedFlow, spec: MeasurementSpec, seed: int) -> dict[str, NDArray[Any]]:
    config = flow.config
    classes = config.data.num_classes
    columns = classes if classes > 1 else COLUMNS
    num = POINTS if isinstance(flow.sample, PointSample) else columns * PER_CLASS
    conditioning = flow.conditioning(num, seed=seed)
    own = flow.sample.sampler

    def drawn_by(chosen: sampler.AnyConfig) -> sampler.Trajectory:
        examples = torch.arange(len(conditioning.labels))
        return flow.follow(conditioning.condition, examples, chosen, guidance=flow.sample.guidance, seed=seed)

    def pictures(trajectory: sampler.Trajectory) -> NDArray[np.float32]:
        states = flow.parts.data_of(trajectory.final).cpu()
        return flow.decode(states, conditioning).numpy().astype(np.float32)

    few, many = (drawn_by(_with_about(own, number)) for number in (spec.few, spec.many))
    arrays = {
        "few": pictures(few),
        "many": pictures(many),
        "evaluations": np.array([few.calls["network"], many.calls["network"]]),
    }
    if isinstance(flow.sample, PointSample) and tuple(config.data.shape) == (2,):
        states = many.x[:, :NUM_TRAJECTORIES]
        shown = torch.linspace(0, len(states) - 1, min(TRAJECTORY_STATES, len(states))).round().long()
        arrays[TRAJECTORIES] = flow.parts.data_of(states[shown]).cpu().numpy().astype(np.float32)
    return arrays


def _with_about(own: sampler.AnyConfig, evaluations: int) -> sampler.AnyConfig:
    """The sampler with so many evaluations, or the next number that it can come out at."""
    for number in range(evaluations, 2 * evaluations + 64):
        chosen = sampler.with_evaluations(own, number)
        if chosen is not None:
            return chosen
    return own
