"""Figures of one trained network, kept in the folder of its run, and the price of its calls on a fabric."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import trainer.data
from moe import collective_trace
from moe.placement.placement import Placement, objective_of
from moe.price.price import simulate
from moe.report.context import read_simulations
from netsim.foundation.files import replacing, write_json
from netsim.foundation.refusal import Refusal
from trainer.checkpoint.intact import newest_checkpoint
from trainer.config.document import read_document
from trainer.config.layout import Layout
from trainer.config.rules.plan import expert_nodes
from trainer.config.run import RunConfig
from trainer.config.sample import PointSample
from trainer.evaluation.evaluation import TRANSPORTED, evaluate
from trainer.evaluation.judgement import parted, real_examples
from trainer.evaluation.quality import frechet_distance
from trainer.evaluation.transport import wasserstein_2
from trainer.experiment.comparison.results import CallTraffic, Fabric
from trainer.experiment.forecast.sampling import Sampling, sampling_bytes, sampling_spec
from trainer.experiment.forecast.trace import TraceSpec, formula
from trainer.flow import sampler
from trainer.observe.measurement import MeasurementSpec as EvaluationSpec
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.trained import opened
from trainer.training.guard import RunFailed


def calls_on(config: RunConfig, fabric: Fabric, calls: int = 1) -> TraceSpec:
    """The collectives of `calls` unguided calls of a network, while all ranks of a fabric draw examples at once.

    Samples are not gathered afterwards, as they are for a file: a user takes each from the rank that drew it.
    Experts are spread over gcd(experts, ranks) ranks; all else is whole on every rank.
    """
    spread = 1 if config.moe is None else math.gcd(config.moe.num_experts, fabric.ranks)
    config = config.model_copy(update={"parallel": config.parallel.model_copy(update={"expert": spread, "tensor": 1})})
    ranks_per_node = _ranks_per_host(Path(fabric.scenario)) if spread > 1 else 1
    layout = _layout(config, fabric.ranks, ranks_per_node)
    spec = sampling_spec(
        config, layout, sampler=1, guidance=1.0, examples=fabric.examples, ranks_per_node=ranks_per_node
    )
    assert isinstance(spec.program, Sampling)
    of_any_run = None  # so that runs whose networks send the same have one trace
    return replace(spec, program=Sampling(passages=spec.program.passages * calls), config_sha256=of_any_run)


def _layout(config: RunConfig, ranks: int, ranks_per_node: int) -> Layout:
    """Layout of ranks that share a network to draw; needs no flow, which a base of a comparison may lack."""
    moe, spread = config.moe, config.parallel.expert
    placement = None
    if moe is not None:
        nodes = expert_nodes(config, ranks_per_node)
        sizes = config.model.num_layers, moe.num_experts, nodes, spread // nodes
        placement = Placement.contiguous(*sizes, dispatch=objective_of(moe.dispatch))
    return Layout(
        world_size=ranks,
        expert_parallel=spread,
        expert_data_parallel=ranks // spread,
        tensor_parallel=1,
        micro_batch=1,
        accumulation=1,
        placement=placement,
        relay_ranks=None if moe is None or placement is None else placement.relay_ranks(moe.dispatch),
    )


class CallPrices:
    """Bytes and times of calls of networks on one fabric; calls that send the same are simulated once."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self._known: dict[bytes, Mapping[str, float]] = {}

    def of(self, config: RunConfig) -> CallTraffic:
        """Bytes and time of a call of a run's network."""
        spec = calls_on(config, self.fabric)
        sent = int(sampling_bytes(spec).call.sum())
        network_us = self.times_us(spec) if sent else {}
        return CallTraffic(sent / (self.fabric.ranks * self.fabric.examples), network_us)

    def times_us(self, spec: TraceSpec) -> Mapping[str, float]:
        """Time of a program on the fabric by transport, us, mean over the seeds of the scenario."""
        with TemporaryDirectory() as folder:
            trace, out = Path(folder) / "calls.jsonl", Path(folder) / "netsim"
            collective_trace.write(trace, *formula(spec))
            written = trace.read_bytes()
            if written not in self._known:
                try:
                    simulate(trace, Path(self.fabric.scenario), out, "--jobs", "1")
                except ValueError as error:
                    raise ValueError(f"--fabric: {error}") from error
                except RuntimeError as error:
                    raise RunFailed(str(error)) from error
                runs = read_simulations(out / "results.json")
                self._known[written] = {run.transport: 1e3 * run.completion_ms for run in runs}
            return self._known[written]


def _ranks_per_host(scenario: Path) -> int:
    """Ranks on one host of a fabric; 1 if its topology gives no valid number."""
    if not scenario.exists():
        raise Refusal(scenario, "file", "does not exist", "name a scenario of netsim with --fabric")
    topology = read_document(scenario, "configs/scenarios").get("topology")
    ranks = topology.get("ranks_per_host", 1) if isinstance(topology, dict) else 1
    return ranks if isinstance(ranks, int) and ranks > 0 else 1


MEASURED, DRAWN = "measured.json", "drawn.npz"
"""Files in the folder of a run: the request with the output of ``evaluate``, and the samples."""
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
        """Number of evaluations for the picture of fast samples: the second smallest one compared."""
        return sorted(self.evaluations)[min(1, len(self.evaluations) - 1)]

    @property
    def many(self) -> int:
        """Number of evaluations for the picture of accurate samples: the largest one compared."""
        return max(self.evaluations)

    def request(self, checkpoint: str, seed: int) -> dict[str, Any]:
        """Returns the request for one network as JSON; the data are left out, as a whole comparison shares them."""
        return {
            "checkpoint": checkpoint,
            "seed": seed,
            "evaluations": list(self.evaluations),
            "num": self.num,
            "counted": ["calls", "multiply_adds"],
        }


def measure_network(run_dir: Path, spec: MeasurementSpec, seed: int, progress: Callable[[str], None]) -> dict[str, Any]:
    """Measures a network and draws from it, unless that is done; returns the document that ``evaluate`` writes."""
    request = spec.request(newest_checkpoint(run_dir).name, seed)
    kept = _kept(run_dir, request)
    if kept is not None:
        return kept
    with opened(run_dir, spec.data) as flow:
        figures = evaluate(flow, EvaluationSpec(spec.evaluations, spec.num, seed), progress=progress)
        progress("drawing pictures")
        with replacing(run_dir / DRAWN) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **_drawn(flow, spec, seed))
    evaluation = figures.to_dict()
    write_json(run_dir / MEASURED, {"asked": request, "evaluation": evaluation}, indent=None)
    return evaluation


def floor(run_dir: Path, spec: MeasurementSpec, measure: str) -> list[float]:
    """Returns the distances of several pairs of sets of real examples; `measure` is a key of :data:`QUALITY`."""
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
    """Returns the figures that an earlier start measured for an equal request; None if there are none."""
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
    """Returns the sampler with so many evaluations, or with the next larger number that it can have."""
    for number in range(evaluations, 2 * evaluations + 64):
        chosen = own.with_evaluations(number)
        if chosen is not None:
            return chosen
    return own
