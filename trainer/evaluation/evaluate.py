"""The evaluate verb."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

import trainer.data
from moe.files import replacing
from trainer.config.constraints.drawing import check_drawn_by, drawable
from trainer.config.run import ImageSample, PointSample, RunConfig
from trainer.evaluation.evaluation import Evaluation, Progress, evaluate
from trainer.evaluation.page import COLUMNS, cell, evaluation_page
from trainer.evaluation.request import EvaluateRequest
from trainer.flow.sampler import Dopri5Config, SegmentedConfig
from trainer.sampling.preview import write_sample
from trainer.sampling.trained import opened, restored_flow

WIDTH = 100
"""Of what is printed into a file, in characters."""


def run(request: EvaluateRequest) -> int:
    """Measures a run on one process, shows a table and writes a JSON, and a page where one is asked for.

    Args:
        request: what is measured.

    Returns:
        0.

    Raises:
        ValueError: the run has no complete checkpoint or follows no flow, or a number is out of range.
    """
    run_dir, out, page = request.run_dir, request.out, request.page
    data = None if request.data_from is None else restored_flow(request.data_from)[1].data
    with Console(stderr=True).status("") as status, TemporaryDirectory() as folder:
        picture = Path(folder) / "drawn.png"
        found = evaluate_run(
            run_dir,
            request.evaluations,
            num=request.num,
            seed=request.seed,
            likelihood=request.likelihood,
            data=data,
            picture=picture if page else None,
            progress=status.update,
        )
        drawn = picture.read_bytes() if picture.exists() else None
    write(found, out)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    title = f"{found.num:,} samples of {found.checkpoint} against the data, by function evaluations (NFE)"
    console.print(title, style="italic", highlight=False, soft_wrap=True)
    console.print(table(found))
    for line in in_words(found):
        console.print(line, highlight=False, soft_wrap=True)
    print(f"{out}: {run_dir}, {found.checkpoint}")
    if page is not None:
        write_page(found, restored_flow(run_dir)[1], drawn, page)
        print(f"{page}: the same as a page, with what the run draws")
    return 0


def write(found: Evaluation, out: Path) -> None:
    """Writes what was measured as JSON."""
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")


def write_page(found: Evaluation, config: RunConfig, picture: bytes | None, out: Path) -> None:
    """Writes what was measured of a run as HTML, with a picture of what it draws, if there is one."""
    ends = [config.data] if config.starts_at is None else [config.starts_at, config.data]
    words = ([getattr(end, name, None) for name in ("kind", "name", "path")] for end in ends)
    document = evaluation_page(
        found,
        run_dir=str(config.run.dir),
        data=" to ".join(" ".join(str(word) for word in about if word is not None) for about in words),
        images=isinstance(config.sample, ImageSample),
        picture=picture,
    )
    with replacing(out) as temporary:
        temporary.write_text(document, encoding="utf-8")


def evaluate_run(
    run_dir: Path,
    evaluations: Sequence[int],
    *,
    num: int,
    seed: int,
    likelihood: int = 0,
    data: trainer.data.AnyConfig | None = None,
    picture: Path | None = None,
    progress: Progress = lambda _: None,
) -> Evaluation:
    """Measures the averaged weights of a run's newest whole checkpoint on this process.

    Args:
        run_dir: folder of the run.
        evaluations: numbers of function evaluations, each 1 or more.
        num: samples of each set.
        seed: of all draws.
        likelihood: held-out examples whose likelihood is computed; 0: none.
        data: the real ones; None: the run's own, which for a student of pairs are what its teacher has drawn.
        picture: PNG to write of what the run draws, if that can be shown; None: none.
        progress: is told what is being done.

    Raises:
        ValueError: the run has no complete checkpoint or follows no flow, or a number is out of range.
    """
    for name, value, least in (("--num", num, 2), ("--likelihood", likelihood, 0), ("--seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name}: {value} is below {least}; use {least} or more")
    if likelihood:
        _check_likelihood(restored_flow(run_dir)[1])
    with opened(run_dir, data) as flow:
        if picture is not None and (isinstance(flow.config.sample, PointSample) or drawable(flow.config)):
            progress("drawing a picture")
            write_sample(flow.config, flow.task, flow.model, picture)
        return evaluate(
            flow.config,
            flow.task,
            flow.model,
            checkpoint=flow.checkpoint,
            evaluations=evaluations,
            num=num,
            seed=seed,
            likelihood=likelihood,
            progress=progress,
        )


def _check_likelihood(config: RunConfig) -> None:
    """Refuses the likelihood of a flow whose source has no density, or whose velocity cannot be followed back."""
    assert isinstance(config.sample, ImageSample | PointSample)
    if config.starts_at is not None:
        raise ValueError(
            f"--likelihood: samples of {config.run.dir} start at {config.starts_at.kind} data, whose density nobody "
            "knows; leave it out"
        )
    own, solver = config.sample.sampler, Dopri5Config()
    if isinstance(own, SegmentedConfig):
        solver = own.model_copy(update={"within": solver})
    try:
        check_drawn_by(config, solver, guidance=1.0)
    except ValueError as error:
        raise ValueError(f"--likelihood: {error}, or leave it out") from error


def table(found: Evaluation) -> Table:
    """The figures of all sets of samples, those of real examples above them."""
    shown = Table(box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False)
    shown.add_column("sampler", no_wrap=True)
    names = [name for name in COLUMNS if any(name in one.figures for one in found.results)]
    for heading in ("NFE", *(COLUMNS[name] for name in names), "ms"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_row("real data", "", *(cell(name, found.floor.get(name)) for name in names), "", end_section=True)
    for place, one in enumerate(found.results, start=1):
        figures = (cell(name, one.figures[name]) for name in names)
        last = place < len(found.results) and found.results[place].sampler != one.sampler
        shown.add_row(
            one.sampler, f"{one.evaluations}", *figures, f"{1e3 * one.seconds_per_sample:.2g}", end_section=last
        )
    return shown


def in_words(found: Evaluation) -> list[str]:
    """What is no matter of the sampler, a line each."""
    paths = found.paths
    lines = [
        f"straightness {paths['straightness']:.4f} (0: straight), path energy {paths['path_energy']:.4g}, "
        f"transport cost {paths['transport_cost']:.4g}"
    ]
    if found.bits_per_dimension is not None:
        lines.append(f"{found.bits_per_dimension:.3f} bits a dimension of held-out examples")
    return lines
