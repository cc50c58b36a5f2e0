"""What the evaluate verb shows of a flow: a table, lines below it and a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from trainer.config.run import RunConfig
from trainer.config.sample import ImageSample
from trainer.evaluation.evaluation import Evaluation, evaluate
from trainer.evaluation.page import COLUMNS, NO_PATHS, cell, costs_of, evaluation_page, under_controls
from trainer.flow.reward import Reward
from trainer.observe.measurement import Measurement, MeasurementSpec, Progress
from trainer.sampling.draw import TrainedFlow

MINOR = ("sliced_wasserstein", "energy_distance", "mmd")
"""Distances that a terminal does not show beside those on features; the file and the page have them."""


@dataclass(frozen=True)
class FlowMeasurement(Measurement):
    """The figures of a flow."""

    evaluation: Evaluation
    config: RunConfig

    @classmethod
    def of(
        cls, flow: TrainedFlow, spec: MeasurementSpec, progress: Progress, reward: Reward | None = None
    ) -> FlowMeasurement:
        """Measures a flow on this process."""
        evaluation = evaluate(
            flow,
            evaluations=spec.evaluations,
            num=spec.num,
            seed=spec.seed,
            likelihood=spec.likelihood,
            steps=spec.steps,
            features=spec.features,
            statistics=spec.statistics,
            reward=reward,
            progress=progress,
        )
        return cls(evaluation, flow.config)

    def to_dict(self) -> dict[str, Any]:
        """See `Measurement.to_dict`."""
        return self.evaluation.to_dict()

    def table(self) -> Table:
        """See `Measurement.table`; a row for each set of samples, real examples above them."""
        results, floor = self.evaluation.results, self.evaluation.floor
        title = (
            f"{self.evaluation.num:,} samples of {self.evaluation.checkpoint} against the data, by function "
            "evaluations (NFE)"
        )
        shown = Table(box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False, title=title, title_justify="left")
        shown.add_column("sampler", no_wrap=True)
        names = [name for name in COLUMNS if any(name in one.figures for one in results)]
        if "fid" in names:  # with all of them a line would be too long
            names = [name for name in names if name not in MINOR]
        costs = costs_of(results)
        for heading in (*costs, *(COLUMNS[name] for name in names), "ms"):
            shown.add_column(heading, justify="right", no_wrap=True)
        shown.add_row(
            "real data", *("" for _ in costs), *(cell(name, floor.get(name)) for name in names), "", end_section=True
        )
        for place, one in enumerate(results, start=1):
            figures = (cell(name, one.figures.get(name)) for name in names)
            last = place < len(results) and results[place].sampler != one.sampler
            shown.add_row(
                one.sampler,
                *(written(one) for written in costs.values()),
                *figures,
                f"{1e3 * one.seconds_per_sample:.2g}",
                end_section=last,
            )
        return shown

    def remarks(self) -> list[str]:
        """See `Measurement.remarks`; what holds for every sampler."""
        paths, bits = self.evaluation.paths, self.evaluation.bits_per_dimension
        if paths is None:
            return [NO_PATHS]
        under = under_controls(self.evaluation)
        lines = [f"all samples and paths are drawn {under}"] if under else []
        lines += [
            f"straightness {paths['straightness']:.4f} (0: straight), path energy {paths['path_energy']:.4g}, "
            f"transport cost {paths['transport_cost']:.4g}"
        ]
        if self.evaluation.tasks is not None:
            measure = "frechet_distance" if isinstance(self.config.sample, ImageSample) else "wasserstein_2"
            told = (f"{name} {one[measure]:.4g}" for name, one in self.evaluation.tasks.figures.items())
            lines.append(f"{COLUMNS[measure]} by task, by the run's own sampler: {', '.join(told)}")
        gaps = self.evaluation.monge_gap
        if gaps is not None:
            lines.append(f"Monge gap {gaps.figure} {gaps.explained}")
        return lines if bits is None else [*lines, f"{bits:.3f} bits a dimension of held-out examples"]

    def page(self, run_dir: Path, picture: bytes | None) -> str:
        """See `Measurement.page`."""
        config = self.config
        ends = [config.data] if config.source_data is None else [config.source_data, config.data]
        words = ([getattr(end, name, None) for name in ("kind", "name", "path")] for end in ends)
        return evaluation_page(
            self.evaluation,
            run_dir=str(run_dir),
            data=" to ".join(" ".join(str(word) for word in about if word is not None) for about in words),
            images=isinstance(config.sample, ImageSample),
            picture=picture,
        )
