"""The restore verb: pictures from observations of them, what they are worth, and what that cost."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
import yaml
from rich.box import SIMPLE
from rich.table import Table
from torch import Tensor

from netsim.foundation.terminal import Terminal
from trainer.checkpoint.manifest import Manifest
from trainer.distributed.groups import Launch
from trainer.distributed.process.signals import end_with_launcher
from trainer.evaluation.restoration.figures import FORMAT, Figures, power
from trainer.evaluation.restoration.page import SHOWN, Told, restoration_page
from trainer.evaluation.restoration.pictures import write_pngs
from trainer.flow.inverse import Flair
from trainer.flow.operator import AveragePool, BlurConfig, Identity, MaskConfig
from trainer.flow.sampler import Euler
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import build_space, check_latents
from trainer.sampling.requested_pictures import Pictures, open_pictures
from trainer.sampling.restoration import CALIBRATION, EXAMPLES, Restoration, measured_errors, read_errors
from trainer.sampling.restore_request import RestorePlan, RestoreRequest, built, planned, weights_of
from trainer.sampling.results_folder import ResultsFolder, work_through
from trainer.sampling.trained import SharedFlow, restored_flow, shared

WIDTH = 100
"""Of what is printed into a file, in characters."""
PAGE, RESULTS, RESTORED = "index.html", "results.json", "restored"


def run(run_dir: Path, request: RestoreRequest, out: Path) -> int:
    """Restores pictures with the averaged weights of a run's newest intact checkpoint; 75 if stopped.

    The ranks of a launch share the pictures, and the network as those of the run did; the first one writes the page.
    Results of the same request that the folder holds are kept.
    """
    end_with_launcher()
    launch = Launch.from_environment()
    folder, config = restored_flow(run_dir)
    plan = planned(request, config)
    check_latents(config)
    pictures = open_pictures(
        request.pictures, config, build_space(config), device=launch.device, shape=plan.picture_shape
    )
    pictures.check_some_readable("pictures")
    results = ResultsFolder(out, _record(folder, request, pictures))
    results.check()
    code, refusal, said = 0, None, None
    with shared(run_dir, Euler()) as found:
        try:
            solver, errors = _solver(plan, found, folder, results)
        except ValueError as error:  # the same on every rank; the process groups are left before it is said
            refusal = error
        else:
            code = _worked(plan, found, pictures, results, solver, errors)
            if code == 0 and found.launch.rank == 0:
                figures = Figures.of(pictures, results)
                said = _told(run_dir, plan, found.flow, solver, errors), figures
                _write(results, *said)
    if refusal is not None:
        raise refusal
    if said is not None:
        _say(out, *said)
    return code


def _worked(
    plan: RestorePlan,
    found: SharedFlow,
    pictures: Pictures,
    results: ResultsFolder,
    solver: Flair,
    errors: Tensor | None,
) -> int:
    """Restores what is left to restore; collective. Returns an exit code."""
    launch = found.launch
    if launch.rank == 0:
        results.begin()
        if errors is not None:
            results.write_json(CALIBRATION, {"examples": EXAMPLES, "errors": errors.tolist()})
    dist.barrier()
    restoration = Restoration(found.flow, plan, pictures, solver)
    return work_through(
        pictures,
        results,
        lambda rows: _batch(rows, restoration, pictures, results),
        together=plan.request.together,
        model=found.flow.model,
        launch=launch,
        title=f"restoring {len(pictures)} pictures",
    )


def _write(results: ResultsFolder, told: Told, figures: Figures) -> None:
    """Writes the page and the figures of a finished folder."""
    shown = [results.read(name) for name in figures.names[:SHOWN]]
    results.write_text(PAGE, restoration_page(told, figures, shown))
    results.write_json(RESULTS, _document(results, told, figures))


def _record(folder: Path, request: RestoreRequest, pictures: Pictures) -> dict[str, object]:
    """Everything that the results are a function of; the folder of the run may move."""
    return {
        "verb": "restore",
        "checkpoint": folder.name,
        "weights": Manifest.read(folder).weights_sha256(),
        "num_pictures": len(pictures),
        "request": request.model_dump(mode="json"),
    }


def _solver(plan: RestorePlan, found: SharedFlow, folder: Path, results: ResultsFolder) -> tuple[Flair, Tensor | None]:
    """The solver, and the errors that its weight is calibrated by, measured if no earlier start has; collective."""
    request, flow, rank, errors = plan.request, found.flow, found.launch.rank, None
    if flow.checkpoint != folder.name:
        raise ValueError(f"run_dir: the run has saved {flow.checkpoint} meanwhile; start again")
    if request.method.weight == "calibrated":
        kept = [read_errors(results.path) if rank == 0 else None]
        dist.broadcast_object_list(kept)
        errors = kept[0]
        if errors is None:
            quiet = rank > 0 or not sys.stderr.isatty()
            with Terminal(stderr=True, quiet=quiet).status(f"calibrating the weight on {EXAMPLES} examples"):
                errors = measured_errors(
                    flow,
                    labelled=plan.labelled,
                    guidance=plan.guidance,
                    seed=request.seed,
                    together=request.together * request.samples,
                )
    return built(request.method, flow.parts.path, errors), errors


def _batch(rows: Tensor, restoration: Restoration, pictures: Pictures, results: ResultsFolder) -> Callable[[], None]:
    restored = restoration.restored(rows)

    def write() -> None:
        for row, one in zip(rows.tolist(), restored, strict=True):
            name = pictures.names[row]
            if not one.problem:
                write_pngs(results.path / RESTORED, name, one.arrays["restored"])
            results.write(name, one.arrays, pictures.marks[row], problem=one.problem)

    return write


def _told(run_dir: Path, plan: RestorePlan, flow: TrainedFlow, solver: Flair, errors: Tensor | None) -> Told:
    request = plan.request
    label = f"class {request.label}, guidance {plan.guidance:g}" if request.label is not None else "no class"
    noise = f", noise {request.noise:g}" if request.noise else ""
    controls = "".join(f", {section.kind}" for section in request.controls)
    return Told(
        run=run_dir.resolve().name,
        checkpoint=flow.checkpoint,
        task=_task(request),
        kicker=f"{flow.checkpoint}; {request.method.kind}, {request.samples} samples of each picture, {label}"
        f"{noise}{controls}, seed {request.seed}",
        request=yaml.safe_dump(request.model_dump(mode="json"), sort_keys=False).rstrip(),
        weight=weights_of(request.method, errors),
        calibration=0 if errors is None else len(errors) * EXAMPLES,
        largest=solver.largest_ratio,
        caution=VANISHED if solver.vanished else "",
    )


VANISHED = (
    "The calibrated weight of the prior vanishes, because the states of the run vary as much as noise does, as latents "
    "of unit variance do. In its place every step goes the same share of the way, method.scale."
)


def _task(request: RestoreRequest) -> str:
    """What is restored, in a few words."""
    match request.operator:
        case MaskConfig(mask=mask):
            return {"centre": "Filling in the centre", "boxes": "Filling in boxes"}.get(mask.kind, "Filling in a mask")
        case AveragePool(factor=factor):
            return f"{factor} times the resolution"
        case BlurConfig(deviation=deviation):
            return f"Sharpening a blur of {deviation:g} pixel{'s' * (deviation != 1)}"
        case Identity():
            return "Restoring"
        case own:
            return f"Restoring ({own.class_path.rpartition(':')[2]})"


def _document(results: ResultsFolder, told: Told, figures: Figures) -> dict[str, Any]:
    levels, ratios = told.weight
    return {
        "format": FORMAT,
        "made_by": results.record,
        "weight": {
            "largest": told.largest,
            "vanished": bool(told.caution),
            "levels": levels.tolist(),
            "ratios": ratios.tolist(),
        },
        "calibration_evaluations": told.calibration,
        **figures.to_dict(),
    }


def _say(out: Path, told: Told, figures: Figures) -> None:
    """Prints the figures, and where everything is."""
    print(f"{told.task}: {len(figures.names)} pictures, {figures.samples} samples of each, by {told.run}")
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("")
    error = figures.mean_error
    for heading in ("residual",) if error is None else ("squared error", "of pseudo-inverse", "residual"):
        table.add_column(heading, justify="right", no_wrap=True)
    for place, name in enumerate(figures.rows_told):
        cells = [power(figures.mean_residual[place])]
        if error is not None:
            share = error[place] / error.pseudo_inverse if error.pseudo_inverse > 0 else 1.0
            cells = [f"{error[place]:.4f}", f"{share:.3f}", *cells]
        table.add_row(name, *cells)
    Terminal(width=None if sys.stdout.isatty() else WIDTH).print(table)
    print(f"largest weight of the prior: {told.largest:.3f} of the noise level, which must be below 2")
    calibration = f", and {told.calibration:,} of the calibration" if told.calibration else ""
    print(
        f"network evaluations: {figures.evaluations:,} a picture, {figures.evaluations // figures.samples} a sample"
        f"{calibration}"
    )
    if figures.decoded_residual is not None:
        print(f"residual of the decoder, before what was observed is put back: {power(figures.decoded_residual)}")
    if told.caution:
        print(told.caution)
    if figures.unreadable:
        print(figures.left_out, file=sys.stderr)
    print(f"{out / PAGE}: the pictures; {out / RESULTS}: the figures; {out / RESTORED}: a PNG for each sample")
