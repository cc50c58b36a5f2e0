"""The figures of a comparison and the costs of a sample: compare.json, from which the page is drawn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from netsim.foundation.documents import parse_json
from netsim.foundation.files import write_json
from netsim.foundation.refusal import Refusal
from trainer.model.flops import OPERATIONS_PER_MULTIPLY_ADD


@dataclass(frozen=True)
class Fabric:
    """Ranks that draw on the fabric of a scenario; each draws `examples` at once, and sustains `teraflops` TFLOP/s."""

    scenario: str
    ranks: int
    examples: int
    teraflops: float

    def compute_us(self, multiply_adds: float) -> float:
        """Time of a rank's arithmetic for its examples, us."""
        return self.examples * multiply_adds * OPERATIONS_PER_MULTIPLY_ADD / (1e6 * self.teraflops)


@dataclass(frozen=True)
class CallTraffic:
    """Bytes of a call, per sample, that leave their rank; times of its collectives by transport, in us, if any."""

    sent_bytes: float
    network_us: Mapping[str, float]


@dataclass(frozen=True)
class SampleCost:
    """Cost of a sample without guidance: calls of each part of the network, arithmetic, bytes that leave their rank.

    Times, in us, are for all samples of a rank; those of collectives are by transport. None: unknown.
    """

    evaluations: int
    calls: Mapping[str, int]
    multiply_adds: int | None
    sent_bytes: float
    compute_us: float | None
    network_us: Mapping[str, float]

    @classmethod
    def of(
        cls, evaluations: int, calls: Mapping[str, int], multiply_adds: int | None, traffic: CallTraffic, fabric: Fabric
    ) -> "SampleCost":
        """Cost of so many calls on a fabric; a head sends nothing."""
        number = calls["network"]
        return cls(
            evaluations=evaluations,
            calls=dict(calls),
            multiply_adds=multiply_adds,
            sent_bytes=number * traffic.sent_bytes,
            compute_us=None if multiply_adds is None else fabric.compute_us(multiply_adds),
            network_us={transport: number * time for transport, time in traffic.network_us.items()},
        )

    def total_us(self, transport: str | None) -> float | None:
        """Time until the examples of all ranks are drawn, us; None if unknown. Transport None: nothing is sent."""
        if self.compute_us is None:
            return None
        return self.compute_us + (0.0 if transport is None else self.network_us.get(transport, 0.0))


FORMAT = "flowfabric.comparison/2"
READ = (FORMAT, "flowfabric.comparison/1")
"""Formats that are read; the first version lacks bytes and times."""
QUALITY = {
    "wasserstein_2": "2-Wasserstein distance to the data",
    "frechet_distance": "Fréchet distance to the data",
}
"""Distances by which points or images are judged."""


@dataclass(frozen=True)
class Outcome:
    """One trained network.

    `training_s` is the time of all steps up to it, `preparing_s` that of stages that do not train, both with its
    teachers. `step_s` is a median. `evaluation` is the document that ``evaluate`` writes.
    """

    seed: int
    run_dir: str
    training_s: float
    preparing_s: float
    step_s: float
    evaluation: dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One network, trained with every seed; its numbers of steps and of drawn pairs include those of its teachers."""

    name: str
    about: str
    paper: str | None
    config: str
    trained: str
    sampler: str
    steps: int
    pairs: int
    outcomes: tuple[Outcome, ...]
    costs: tuple[SampleCost, ...] = ()

    def quality(self, measure: str) -> dict[int, list[float]]:
        """Returns a distance of its samples to the data for each seed, by number of function evaluations."""
        distances: dict[int, list[float]] = {}
        for outcome in self.outcomes:
            for one in outcome.evaluation["results"]:
                if one["sampler"] == self.sampler:
                    distances.setdefault(one["evaluations"], []).append(one["figures"][measure])
        return dict(sorted(distances.items()))

    def cost(self, evaluations: int) -> SampleCost | None:
        """Returns the cost of a sample with so many evaluations; None if unknown."""
        return next((cost for cost in self.costs if cost.evaluations == evaluations), None)

    def path_figure(self, name: str) -> list[float]:
        """A figure of its paths for each seed; empty if its samples follow no velocity."""
        paths = [outcome.evaluation["paths"] for outcome in self.outcomes]
        return [figures[name] for figures in paths if figures is not None]

    def median(self, figure: Callable[[Outcome], float]) -> float:
        """Median of a figure over the seeds."""
        return median(map(figure, self.outcomes))


@dataclass(frozen=True)
class Comparison:
    """Results of a comparison, the document of compare.json.

    The floor is the distances between pairs of sets of real samples, by the measure that samples are judged by.
    """

    command: str
    base: str
    data: dict[str, Any]
    steps: int
    global_batch: int
    ranks: int
    jobs: int
    num: int
    measure: str
    floor: tuple[float, ...]
    fabric: Fabric | None
    entries: tuple[Entry, ...]
    left_out: Mapping[str, str]

    def step_times(self, entry: Entry) -> list[float]:
        """Median time of an optimiser step with each seed, ms; none where several runs shared the cores."""
        return [1e3 * outcome.step_s for outcome in entry.outcomes] if self.jobs == 1 else []

    @property
    def evaluations(self) -> list[int]:
        """Every number of function evaluations with which a network was measured."""
        return sorted({number for entry in self.entries for number in entry.quality(self.measure)})

    @property
    def seeds(self) -> list[int]:
        """Seeds of the runs."""
        return [outcome.seed for outcome in self.entries[0].outcomes]

    def to_dict(self) -> dict[str, Any]:
        """The results as JSON has them, with the name and version of the format."""
        fields = asdict(self)
        shared = {name: fields.pop(name) for name in ("command", "base", "data")}
        steps, batch = fields.pop("steps"), fields.pop("global_batch")
        budget = {"steps": steps, "global_batch": batch, "examples": steps * batch}
        return {"format": FORMAT, **shared, "budget": budget, **fields}

    @classmethod
    def read(cls, path: Path) -> "Comparison":
        """Reads compare.json."""
        remedy = "write it with python -m trainer compare"
        try:
            document = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
            raise Refusal(path, "file", f"cannot be read ({reason})", remedy) from error
        version = document.get("format") if isinstance(document, dict) else None
        if version not in READ:
            raise Refusal(path, "format", f"is not {FORMAT} ({version})", remedy)
        try:
            budget, fabric = document.pop("budget"), document.pop("fabric", None)
            del document["format"]
            document |= {name: budget[name] for name in ("steps", "global_batch")}
            document |= {"entries": tuple(map(_entry, document["entries"])), "floor": tuple(document["floor"])}
            read = cls(**document, fabric=fabric and Fabric(**fabric))
            if not read.floor or not read.evaluations:
                raise KeyError("outcomes")
        except (KeyError, TypeError, IndexError) as error:
            raise Refusal(path, "document", f"is incomplete ({error})", remedy) from error
        return read

    def write(self, path: Path) -> None:
        """Writes compare.json."""
        write_json(path, self.to_dict(), ensure_ascii=False)


def _entry(document: dict[str, Any]) -> Entry:
    outcomes = tuple(Outcome(**outcome) for outcome in document["outcomes"])
    costs = tuple(SampleCost(**cost) for cost in document.get("costs", ()))
    return Entry(**{**document, "outcomes": outcomes, "costs": costs})


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, least and largest of some values."""
    return fmean(values), min(values), max(values)
