"""Evaluation of a trained flow: sample quality by number of function evaluations, straightness of paths, likelihood."""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import trainer.data
from moe.seeds import derive_seed
from trainer.evaluation.by_task import by_task
from trainer.evaluation.judgement import FeatureJudge, distances, parted, real_examples
from trainer.evaluation.label_reading import read_labels
from trainer.evaluation.likelihood import bits_per_dimension, log_density, random_signs
from trainer.evaluation.quality import ClassJudge
from trainer.evaluation.reaction_reading import read_reactions
from trainer.evaluation.readings import Reading, read_clips, read_sequences
from trainer.evaluation.transport import (
    MongeGaps,
    measure_gaps,
    path_energy,
    straightness,
    transport_cost,
    wasserstein_2,
)
from trainer.flow import Condition, sampler
from trainer.flow.reward import Reward
from trainer.flow.sampler import Dopri5, Euler, Segmented
from trainer.flow.sampler.protocol import StepsFile
from trainer.model.flops import OPERATIONS_PER_MULTIPLY_ADD, counting
from trainer.observe.measurement import MeasurementSpec, Progress
from trainer.sampling.conditioning import Conditioning, tasks_of
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.sampler_choice import euler_of

FORMAT = "flowfabric.evaluation/1"
TOGETHER = 250
"""Examples that are sampled at once; more would take more memory for their trajectories."""
COUNTED = 8
"""Examples whose arithmetic is counted."""
TRANSPORTED = 1_000
"""Points of each set that the 2-Wasserstein distance is computed from."""
PATHS, PATH_STEPS = 500, 100
"""Number of paths that are measured, and number of steps of Euler's method for each."""
EXACT_UP_TO = 64
"""Values of an example up to which the divergence is exact; above, it is estimated with random signs."""
PROBES, TOLERANCE = 4, 1e-5

SEARCHED = "euler, searched"
"""Name of the rows of Euler's method on grids of a file."""


@dataclass(frozen=True)
class Measured:
    """Figures of one sampler at one number of function evaluations.

    Attributes:
        sampler: kind of the sampler, or :data:`SEARCHED`.
        evaluations: calls of the network for each sample: those of the field, and of the controls that call it too.
        calls: how often each part of the network was called for a sample, without guidance: ``network``; ``head``,
            where it has a head that is called by itself.
        multiply_adds: of those calls, without the decoding of latents; None if unknown.
        seconds_per_sample: wall time of sampling without guidance, divided by the number of samples.
        figures: :func:`distances` and ``wasserstein_2`` between the data and samples drawn without guidance; where a
            network makes features of them, ``fid``, ``precision`` and ``recall`` on these; of a run that learns by a
            reward, ``reward``, its mean over samples drawn with the run's guidance; if the data have classes, also
            ``class_accuracy``: the share of samples drawn with the run's guidance that a classifier fitted to the data
            assigns to their class. Searched grids have it only for runs without guidance, for which grids are searched.
    """

    sampler: str
    evaluations: int
    calls: Mapping[str, int]
    multiply_adds: int | None
    seconds_per_sample: float
    figures: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """All figures about a run.

    Attributes:
        guidance: scale of the guidance with which the class accuracy was measured.
        floor: the distances between two disjoint sets of real examples of that size, or of half the real examples if
            there are too few.
        results: of the run's own sampler, of Euler's method and of Euler's method on searched grids, each by increasing
            number of evaluations. If the run samples segment by segment, so does Euler's method.
        paths: ``straightness``, ``path_energy`` and ``transport_cost`` of the flow without guidance; None: its samples
            follow no velocity, such as those of a chain of transitions.
        monge_gap: excess transport cost of the flow over the optimum; None if each example has its own context, or
            samples follow no velocity.
        bits_per_dimension: negative log2 density of held-out examples for each value, in units of the data, or of the
            latents if the flow runs on latents; None if not requested.
        controls: settings of the controls of all samples, in their order.
        readings: further figures of such a flow, such as classes that it reads or the motion of its clips.
    """

    checkpoint: str
    num: int
    seed: int
    guidance: float
    floor: dict[str, float]
    results: tuple[Measured, ...]
    paths: dict[str, float] | None
    monge_gap: MongeGaps | None
    bits_per_dimension: float | None
    controls: tuple[dict[str, Any], ...] = ()
    readings: tuple[Reading, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The document that is written as JSON, with the name and version of the format; without what is absent."""
        plain = asdict(replace(self, readings=()))
        del plain["readings"]
        document = {"format": FORMAT, **plain, "results": [asdict(one) for one in self.results]}
        if not self.controls:
            del document["controls"]
        return document | {reading.name: reading.to_dict() for reading in self.readings}


def evaluate(
    flow: TrainedFlow, spec: MeasurementSpec, *, reward: Reward | None = None, progress: Progress = lambda _: None
) -> Evaluation:
    """Measures a flow on this process alone.

    Every sampler and number of evaluations starts from the same noise. A number of evaluations that a sampler cannot
    use exactly is left out; a sampler that chooses its own steps is measured once. If a run samples segment by segment,
    no step crosses an edge between segments, because the velocity may jump there. Where samples follow no velocity, the
    run's own sampler alone is measured, and no paths. All samples and paths are drawn under the controls of the run;
    the likelihood is that of the flow without them, whose samples must start at noise.

    Args:
        spec: of its samples, the classes are drawn in turn, or one for each held-out image where the network reads a
            context; its grids were searched for this flow without guidance, and their numbers of evaluations are
            measured too.
        reward: whose mean is measured too, of the real examples and of what is drawn with the run's guidance.
    """
    seed = spec.seed
    conditioning, guidance = flow.conditioning(spec.num, seed=seed), flow.sample.guidance
    num = len(conditioning.labels)
    real, real_labels = real_examples(flow.config, flow.parts.space)
    data = real.numpy()
    judge = None if real_labels is None else ClassJudge(data, real_labels.numpy())
    on_features = None
    if spec.features is not None:
        progress(f"features of {len(data)} real examples")
        on_features = FeatureJudge(spec.features, data, flow.device, spec.statistics)

    def trajectories(chosen: sampler.AnyConfig, scale: float, number: int) -> list[sampler.Trajectory]:
        parts = torch.arange(number).split(TOGETHER)
        return [flow.follow(conditioning.condition, own, chosen, guidance=scale, seed=seed) for own in parts]

    runs_own = flow.sample.sampler
    along_paths = runs_own.follows_velocity
    first = _euler(runs_own, 1) if along_paths else runs_own
    trajectories(first, 1.0, 2)  # what a first call costs is no time of a sample
    searched = {} if spec.steps is None else _searched(runs_own, spec.steps)
    rows = _chosen(runs_own, sorted({*spec.evaluations, *searched}))
    rows += [(SEARCHED, chosen) for chosen in searched.values()]
    results = []
    for name, chosen in rows:
        progress(f"drawing {num} by {name}; {len(results)} sets measured")
        begun = time.perf_counter()
        samples, calls = _ends(flow, conditioning, trajectories(chosen, 1.0, num))
        seconds = (time.perf_counter() - begun) / num
        figures = _distances(samples, data, seed)
        if on_features is not None:
            figures |= on_features.figures(samples)
        if (judge is not None or reward is not None) and (guidance == 1 or name != SEARCHED):
            guided = samples if guidance == 1 else _ends(flow, conditioning, trajectories(chosen, guidance, num))[0]
            if judge is not None:
                figures["class_accuracy"] = judge.accuracy(guided, conditioning.labels.numpy())
            if reward is not None:
                figures["reward"] = mean_reward(reward, guided, conditioning.condition, flow.device)
        multiply_adds = sample_multiply_adds(flow, conditioning, chosen, calls)
        results.append(Measured(name, calls["network"], calls, multiply_adds, seconds, figures))
    paths = gaps = None
    if along_paths:
        progress("following paths")
        followed = min(num, PATHS)
        trajectory = _together(trajectories(_euler(runs_own, PATH_STEPS), 1.0, followed))
        paths = {measure.__name__: measure(trajectory) for measure in (straightness, path_energy, transport_cost)}
        gaps = measure_gaps(
            flow.config, conditioning.labels[:followed], lambda chosen: _together(trajectories(chosen, 1.0, followed))
        )
    floor = _distances(*parted(data, num, seed=seed), seed)
    if on_features is not None:
        floor |= on_features.floor(*parted(on_features.real, num, seed=seed))
    if reward is not None:
        floor["reward"] = mean_reward(reward, data, Condition(real_labels), flow.device)
    tasks = by_task(flow, num=num, seed=seed, distances=_distances, progress=progress)
    readings: list[Reading] = [] if tasks is None else [tasks]
    readings += read_labels(flow, seed=seed, progress=progress)
    readings += read_sequences(flow, num=num, seed=seed, progress=progress)
    readings += read_clips(flow, num=num, seed=seed, progress=progress)
    readings += read_reactions(flow, num=num, seed=seed, progress=progress)
    return Evaluation(
        checkpoint=flow.checkpoint,
        num=num,
        seed=seed,
        guidance=guidance,
        floor=floor,
        results=tuple(results),
        paths=paths,
        monge_gap=gaps,
        bits_per_dimension=_bits(flow, spec.likelihood, seed, progress) if spec.likelihood else None,
        controls=tuple(one.model_dump(mode="json") for one in flow.sample.controls),
        readings=tuple(readings),
    )


def sample_multiply_adds(
    flow: TrainedFlow, conditioning: Conditioning, chosen: sampler.AnyConfig, calls: Mapping[str, int]
) -> int | None:
    """Returns the multiply-adds of a sample of these calls, without guidance and decoding.

    It is the mean over a few samples drawn without controls, since routers may give tokens different numbers of
    experts. None if controls add calls, or nothing was counted.
    """
    num = min(COUNTED, len(conditioning.labels))
    with counting() as counter:
        drawn = flow.under(()).follow(conditioning.condition, torch.arange(num), chosen, guidance=1.0, seed=0)
    if flow.sample.controls and drawn.calls != calls:
        return None
    counted = counter.get_total_flops() // (OPERATIONS_PER_MULTIPLY_ADD * num)
    return counted * calls["network"] // drawn.calls["network"] or None  # an adaptive sampler calls more for more


def mean_reward(reward: Reward, examples: NDArray[np.floating], condition: Condition, device: torch.device) -> float:
    """Mean reward of examples [N, *shape] under the conditions for which they were drawn."""
    parts = torch.arange(len(examples)).split(TOGETHER)
    with torch.no_grad():
        rewards = [
            reward(torch.from_numpy(examples)[own].to(device), condition.rows(own).to(device)).double().cpu()
            for own in parts
        ]
    return float(torch.cat(rewards).mean())


def _euler(own: sampler.AnyConfig, steps: int) -> Euler | Segmented:
    """Returns Euler's method with `steps` steps, rounded up to whole segments; one step from 0 to 1 stays as it is."""
    if isinstance(own, Euler) and own.times == (0.0, 1.0):
        return own
    if not isinstance(own, Segmented):
        return Euler(steps=steps)
    return own.model_copy(update={"within": Euler(steps=-(-steps // own.segments))})


def _chosen(own: sampler.AnyConfig, evaluations: Sequence[int]) -> list[tuple[str, sampler.AnyConfig]]:
    """Returns the run's sampler and, if it follows a velocity and differs, Euler's, at each exact evaluation count."""

    def at_each(config: sampler.AnyConfig) -> list[sampler.AnyConfig]:
        return [chosen for number in evaluations if (chosen := config.with_evaluations(number)) is not None]

    euler, own_kinds = at_each(_euler(own, 1)), at_each(own) or [own]
    compared = [] if own_kinds == euler or not own.follows_velocity else [("euler", chosen) for chosen in euler]
    return [*((own.kind, chosen) for chosen in own_kinds), *compared]


def _searched(own: sampler.AnyConfig, steps: Path) -> dict[int, sampler.AnyConfig]:
    """Returns Euler's method on each grid of a file, by number of evaluations."""
    grids = euler_of(own, Euler(times=steps))
    each = {number: grids.with_evaluations(number) for number in sorted(StepsFile.read(steps).grids)}
    return {number: chosen for number, chosen in each.items() if chosen is not None}


def _distances(samples: NDArray[np.floating], real: NDArray[np.floating], seed: int) -> dict[str, float]:
    return {
        **distances(samples, real, seed=seed),
        "wasserstein_2": wasserstein_2(samples[:TRANSPORTED], real[: min(TRANSPORTED, len(samples))]),
    }


def _ends(
    flow: TrainedFlow, conditioning: Conditioning, parts: Sequence[sampler.Trajectory]
) -> tuple[NDArray[np.float32], dict[str, int]]:
    """Returns the samples at the ends of trajectories, and the most calls of any of them; waits for the device."""
    states = torch.cat([flow.parts.data_of(part.final).cpu() for part in parts])
    calls = Counter[str]()
    for part in parts:
        calls |= Counter(part.calls)
    return flow.decode(states, conditioning).numpy(), dict(calls)


def _together(parts: Sequence[sampler.Trajectory]) -> sampler.Trajectory:
    x = torch.cat([part.x for part in parts], dim=1)
    return sampler.Trajectory(x, parts[0].times, parts[0].calls)


def _bits(flow: TrainedFlow, num: int, seed: int, progress: Progress) -> float:
    """Returns the bits per value of the first `num` held-out examples, each given its class."""
    config, parts = flow.config, flow.parts
    own, solver = flow.sample.sampler, Dopri5(rtol=TOLERANCE, atol=TOLERANCE)
    if isinstance(own, Segmented):
        solver = Segmented(segments=own.segments, within=solver)
    dataset = trainer.data.build(config.data, captions=config.flow and config.flow.captions)
    values = math.prod(config.state_shape)
    generator = torch.Generator().manual_seed(derive_seed(seed, "probes"))
    log_densities = []
    for rows in trainer.data.first_data_points(dataset, "held_out", num).split(TOGETHER):
        progress(f"likelihood of {sum(map(len, log_densities)) + len(rows)} of {num} held-out examples")
        batch = dataset.get(rows)
        context, task = parts.context_of(batch, generator), tasks_of(config, batch)
        condition = Condition(batch.labels, context, caption=batch.captions, task=task).to(flow.device)
        x_1 = parts.space.encode(batch.x_1, generator=generator).to(flow.device) * parts.data_scale
        probes = None if values <= EXACT_UP_TO else random_signs(PROBES, x_1, generator)
        field, ends = parts.field(flow.model, condition, 1.0), torch.tensor([0.0, 1.0])
        log_densities.append(log_density(field, x_1, solver, ends, probes=probes).cpu())
    return bits_per_dimension(torch.cat(log_densities), values) - math.log2(parts.data_scale)
