"""The evaluate verb: what a trained network can do, in figures."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import trainer.task
from netsim.foundation.files import replacing
from netsim.foundation.run_reference import ReferenceConfig
from netsim.foundation.terminal import Terminal
from trainer.config.derived import with_controls
from trainer.config.rules.drawing import of_drawn
from trainer.config.rules.objection import refuse
from trainer.config.run import RunConfig
from trainer.config.sample import FlowSample
from trainer.evaluation.judgement import check_features
from trainer.experiment.built.objects import builds_objects, opened_policy
from trainer.flow.sampler import Dopri5, Segmented
from trainer.observe.measurement import Measurement, MeasurementSpec, Progress
from trainer.sampling.reference import Reference
from trainer.sampling.sample import MOST_SAMPLES
from trainer.sampling.sampler_choice import check_chosen_controls, check_made_of, sampler_of
from trainer.sampling.trained import compared_with, opened, restored_flow
from trainer.training.networks import TrainedNetworks

WIDTH = 100
"""Of what is printed into a file, in characters."""


def run(run_dir: Path, spec: MeasurementSpec, data_from: Path | None, out: Path, page: Path | None) -> int:
    """Measures a run on one process, prints a table and writes a JSON, and a page if given.

    `data_from` is the folder of the run whose data are the real ones; None: the run itself.
    """
    if data_from is not None:
        spec = replace(spec, data=restored_flow(data_from)[1].data)
    with Terminal(stderr=True).status("") as status, TemporaryDirectory() as folder:
        stem = Path(folder) / "drawn"
        measurement = measure_run(run_dir, spec, picture=stem if page else None, progress=status.update)
        picture = next((path.read_bytes() for path in stem.parent.glob("drawn.png")), None)
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(measurement.to_dict(), indent=1) + "\n", encoding="utf-8")
    console = Terminal(width=None if sys.stdout.isatty() else WIDTH)
    console.print(measurement.table())
    for line in measurement.remarks():
        console.print(line, highlight=False, soft_wrap=True)
    print(f"{out}: {run_dir}")
    document = measurement.page(run_dir, picture) if page is not None else None
    if page is not None and document is not None:
        with replacing(page) as temporary:
            temporary.write_text(document, encoding="utf-8")
        print(f"{page}: the same as a page, with what the run draws")
    return 0


def measure_run(
    run_dir: Path, spec: MeasurementSpec, *, picture: Path | None = None, progress: Progress = lambda _: None
) -> Measurement:
    """Measures the averaged weights of a run's newest intact checkpoint on this process.

    `picture` is a file without its ending, for a picture of what the run has learned.
    """
    if spec.num > MOST_SAMPLES:
        raise ValueError(f"--num: {spec.num} samples are held at a time; use {MOST_SAMPLES:,} or less")
    for name, value, least in (("--num", spec.num, 2), ("--likelihood", spec.likelihood, 0), ("--seed", spec.seed, 0)):
        if value < least:
            raise ValueError(f"{name}: {value} is below {least}; use {least} or more")
    if builds_objects(run_dir):
        return _measure_objects(run_dir, spec, picture, progress)
    config = restored_flow(run_dir)[1]
    assert isinstance(config.sample, FlowSample)
    sample, controls = config.sample, config.sample.controls
    if spec.controls is not None:
        controls, config = spec.controls, with_controls(config, spec.controls)
        check_chosen_controls(config, sample.sampler, sample.guidance)
    if spec.likelihood:
        _check_likelihood(config)
    compared_with(config, spec.data)
    if spec.features is not None:
        check_features(spec.features, run_dir, spec.statistics)
    if spec.steps is not None:
        sampler_of(config, spec.steps, guidance=1.0)
        check_made_of(spec.steps, Reference.of_run(ReferenceConfig(run=run_dir)).digest)
    with opened(run_dir) as flow:
        flow = flow.under(controls)
        task, networks = trainer.task.build(flow.config), TrainedNetworks(flow.model)
        if picture is not None:
            progress("drawing a picture")
            task.show(networks, picture, seed=flow.config.run.seed)
        measurement = task.measure(networks, replace(spec, checkpoint=flow.checkpoint), progress)
    if measurement is None:
        raise ValueError(f"run_dir: the task of {run_dir} has nothing to measure; write its method measure")
    return measurement


def check_options(run_dir: Path, given: Sequence[str]) -> None:
    """Refuses options that say how a flow is measured, for a run that follows none."""
    if given and builds_objects(run_dir):
        raise ValueError(
            f"{given[0]}: {run_dir} builds objects and follows no flow; leave it out (--num and --seed are read)"
        )


def _measure_objects(run_dir: Path, spec: MeasurementSpec, picture: Path | None, progress: Progress) -> Measurement:
    """Measures a run that builds objects."""
    with opened_policy(run_dir) as policy:
        networks = TrainedNetworks(policy.model)
        if picture is not None:
            progress("drawing a picture")
            policy.task.show(networks, picture, seed=policy.config.run.seed)
        return policy.task.measure(networks, replace(spec, checkpoint=policy.checkpoint), progress)


def _check_likelihood(config: RunConfig) -> None:
    """Refuses the likelihood of a flow whose source has no density, or whose velocity cannot be followed back."""
    assert isinstance(config.sample, FlowSample)
    if config.source_data is not None:
        raise ValueError(
            f"--likelihood: samples of {config.run.dir} start at {config.source_data.kind} data, whose density nobody "
            "knows; leave it out"
        )
    if config.alphabet:
        raise ValueError(f"--likelihood: {config.run.dir} draws letters, which have no density; leave it out")
    if config.labels_in_state:
        raise ValueError(
            f"--likelihood: {config.run.dir} starts at noise beside a class, which has no density; leave it out"
        )
    if config.species:
        raise ValueError(
            f"--likelihood: {config.run.dir} draws atoms, some of which stay where they are and have no density; leave "
            "it out"
        )
    if config.encodes_captions:
        raise ValueError(f"--likelihood: {config.run.dir} starts at captions, whose density nobody knows; leave it out")
    if config.sample.controls:
        raise ValueError(
            "--likelihood: it is that of the flow, which sample.controls change; leave it out, or give --controls '[]'"
        )
    own, solver = config.sample.sampler, Dopri5()
    if isinstance(own, Segmented):
        solver = own.model_copy(update={"within": solver})
    try:
        refuse(of_drawn(config, solver, guidance=1.0))
    except ValueError as error:
        raise ValueError(f"--likelihood: {error}, or leave it out") from error
