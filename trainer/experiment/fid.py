"""The fid verb: how near the samples of a run, or the pictures in a folder, come to real examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from netsim.foundation.files import file_digest, write_json
from netsim.foundation.refusal import check_least
from netsim.foundation.terminal import Terminal
from trainer.checkpoint.contents import identity_digest
from trainer.config.run import RunConfig
from trainer.distributed.groups import Launch, data_ranks, joined
from trainer.evaluation.fidelity.gaussian import gaussian_distance
from trainer.evaluation.fidelity.precision_recall import NEIGHBOURS, precision_recall
from trainer.evaluation.fidelity.sets import (
    DrawnExamples,
    FeatureSet,
    Pictures,
    RealSource,
    Source,
    TrainingExamples,
    features_of,
)
from trainer.evaluation.fidelity.statistics_file import Statistics
from trainer.flow.control import AnyConfig as AnyControl
from trainer.model.feature_extractor.extractor import check_extractor, feature_shape, read_extractor
from trainer.sampling.conditioning import chosen_classes
from trainer.sampling.sample import DrawingRequest
from trainer.sampling.sampler_choice import SamplerChoice
from trainer.sampling.trained import restored_flow, shared

FORMAT = "flowfabric.fid/1"
CONVENTION = 50_000
"""Samples whose figures papers give."""


@dataclass(frozen=True, kw_only=True)
class FidRequest:
    """A comparison of a run's samples, or of a folder's pictures, with real examples; None: the verb's default."""

    samples: Path
    features: Path
    real: Path | None = None
    statistics: Path | None = None
    num: int | None = None
    num_real: int | None = None
    compared: int = 10_000
    batch: int = 64
    classes: tuple[str, ...] = ()
    guidance: float | None = None
    seed: int = 0
    sampler: SamplerChoice = field(default_factory=SamplerChoice)
    controls: tuple[AnyControl, ...] | None = None
    out: Path | None = None

    @property
    def of_run(self) -> bool:
        """Whether a run draws the samples."""
        return (self.samples / "checkpoints").is_dir()

    @property
    def drawing(self) -> DrawingRequest:
        """The request for the samples of the run."""
        return DrawingRequest(
            run_dir=self.samples,
            num=self.num if self.num is not None else CONVENTION,
            classes=self.classes,
            guidance=self.guidance,
            seed=self.seed,
            sampler=self.sampler,
            controls=self.controls,
        )

    def check(self) -> None:
        """Refuses numbers that are out of range and options that contradict each other."""
        check_least(
            ("--num", self.num, 2),
            ("--num-real", self.num_real, 2),
            ("--compared", self.compared, NEIGHBOURS + 1),
            ("--batch", self.batch, 1),
        )
        self.drawing.check()
        if not self.of_run and self.real is None and (self.statistics is None or not self.statistics.exists()):
            raise ValueError(
                f"--real: what are the pictures in {self.samples} compared with? Give a folder of real pictures, or "
                "--statistics with a file of them"
            )


def run(request: FidRequest) -> int:
    """Compares two sets on this process, or on all ranks of a launch."""
    request.check()
    launch = Launch.from_environment()
    if not request.of_run:
        check_extractor(request.features, (3, 1, 1))
        samples = Pictures(request.samples, request.num)
        real = _Real.of(request, None)
        with joined(launch):
            _compare(request, launch, samples, real, {"pictures": str(request.samples)})
        return 0
    _, config = restored_flow(request.samples)
    check_extractor(request.features, config.decoded_shape)
    classes = chosen_classes(config, request.classes)
    guidance = request.drawing.scale(config)
    controls, chosen = request.drawing.resolved(config)
    real = _Real.of(request, config)
    with shared(request.samples, chosen) as ranks:
        flow = ranks.flow.under(controls)
        recorded = {
            "checkpoint": flow.checkpoint,
            "run_sha256": identity_digest(flow.config),
            "guidance": guidance,
            "seed": request.seed,
            "sampler": chosen.model_dump(mode="json"),
            **({"controls": [one.model_dump(mode="json") for one in controls]} if controls else {}),
            **({"classes": classes} if classes else {}),
        }
        num = request.drawing.number(flow.config, classes)
        conditioning = flow.conditioning(num, seed=request.seed, classes=classes, shown=False)
        samples = DrawnExamples(flow, chosen, conditioning, guidance, request.seed)
        if isinstance(real.source, TrainingExamples):
            real.source.decode_by(flow.parts.space, launch.device)
        _compare(request, launch, samples, real, recorded)
    return 0


@dataclass(frozen=True)
class _Real:
    """The real examples; without a source, their statistics alone."""

    digest: str
    statistics: Statistics | None
    source: RealSource | None

    @classmethod
    def of(cls, request: FidRequest, config: RunConfig | None) -> _Real:
        """Opens the real examples, by default those of the run that draws, and refuses statistics of others."""
        digest, path = file_digest(request.features), request.statistics
        statistics = None
        if path is not None and path.exists():
            width = math.prod(feature_shape(request.features))
            statistics = Statistics.read(path, num_features=width, extractor=digest)
        source: RealSource | None = None
        if statistics is None or statistics.data is not None:  # published statistics do not say of what they are
            if request.real is not None:
                source = Pictures(request.real, request.num_real)
            elif config is not None:
                source = TrainingExamples(config, request.num_real)
        if path is not None and statistics is not None and source is not None:
            statistics.check_made_of(path, data=source.digest, num=source.num)
        return cls(digest, statistics, source)


def _compare(request: FidRequest, launch: Launch, samples: Source, real: _Real, recorded: dict[str, Any]) -> None:
    """Reads both sets, prints the figures and writes them; collective."""
    group, path = data_ranks(), request.statistics
    extractor = read_extractor(request.features, launch.device)
    width = math.prod(feature_shape(request.features))

    def read(source: Source, what: str) -> FeatureSet:
        with _progress(launch, what, source.num) as progress:
            sizes = {"size": request.batch, "kept": request.compared}
            return features_of(source, extractor, width, **sizes, group=group, progress=progress)

    statistics, near = real.statistics, None
    if statistics is None:
        assert real.source is not None
        examples = read(real.source, "real examples")
        ordered = None if path is None else examples.in_order(group)
        statistics, near = (
            Statistics(examples.gaussian, examples.num, ordered, real.source.digest, real.digest),
            examples.kept,
        )
        if path is not None and launch.rank == 0:
            statistics.write(path)
            print(f"{path}: statistics of {examples.num:,} real examples", flush=True)
    elif statistics.features is not None:
        own = statistics.features[: request.compared][group.rank() :: group.size()]
        near = torch.from_numpy(own.copy()).to(launch.device)
    drawn = read(samples, "samples")
    shares = None if near is None else precision_recall(near, drawn.kept, group=group)
    if launch.rank > 0:
        return
    figures: dict[str, Any] = {
        "format": FORMAT,
        "num": drawn.num,
        "num_real": statistics.num,
        "fid": gaussian_distance(drawn.gaussian, statistics.gaussian),
    }
    if shares is not None:
        figures |= {**shares._asdict(), "compared": request.compared}
    figures |= {"features_sha256": real.digest, **recorded}
    if request.out is not None:
        write_json(request.out, figures)
    print(_in_words(figures) if request.out is None else f"{request.out}: {_in_words(figures)}")


@contextmanager
def _progress(launch: Launch, what: str, num: int) -> Iterator[Callable[[int], None]]:
    """A bar on the terminal of the first rank."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Terminal(stderr=True)
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=launch.rank > 0 or not console.is_terminal
    ) as shown:
        task = shown.add_task(what, total=num)
        yield lambda done: shown.update(task, completed=done)


def _in_words(figures: dict[str, Any]) -> str:
    real = "real examples" if figures["num_real"] is None else f"{figures['num_real']:,} real examples"
    line = f"FID {figures['fid']:.3f} of {figures['num']:,} samples and {real}"
    if "precision" in figures:
        line += f", precision {figures['precision']:.3f}, recall {figures['recall']:.3f}"
    if figures["num"] < CONVENTION:
        line += f" (papers draw {CONVENTION:,}; fewer give a larger FID)"
    return line
