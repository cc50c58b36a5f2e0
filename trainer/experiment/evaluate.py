"""The evaluate verb: what a trained network can do, in figures."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import trainer.task
from netsim.foundation.files import write_json, write_text
from netsim.foundation.refusal import check_least
from netsim.foundation.run_reference import ReferenceConfig
from netsim.foundation.terminal import Terminal
from trainer.checkpoint.intact import newest_checkpoint
from trainer.config.derived import with_controls
from trainer.config.file import load_run
from trainer.config.rules.drawing import of_drawn
from trainer.config.rules.objection import refuse
from trainer.config.run import RunConfig
from trainer.config.sample import ExampleSample, FlowSample, ObjectSample, SurfaceSample
from trainer.evaluation.episodes import Episodes
from trainer.evaluation.few_shot import FewShotMeasurement, in_words, measure_features, played_examples
from trainer.evaluation.judgement import check_features
from trainer.experiment.built.objects import builds_objects
from trainer.flow.sampler import Dopri5, Segmented
from trainer.model.build import meta_network
from trainer.model.feature_extractor.extractor import check_extractor, read_extractor
from trainer.model.network import GivesFeatures
from trainer.observe.measurement import Measurement, MeasurementSpec, Progress
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.sample import MOST_SAMPLES
from trainer.sampling.sampler_choice import check_chosen_controls, check_made_of, sampler_of
from trainer.sampling.trained import Reference, TrainedNetwork, compared_with, opened, opened_network, restored_flow
from trainer.training.task import TrainedNetworks

WIDTH = 100
"""Width, in characters, of tables that are printed into a file."""


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
    return _written(measurement, run_dir, picture, out, page)


def run_episodes(
    run_dir: Path, episodes: Episodes, features: Path | None, data_from: Path | None, out: Path, page: Path | None
) -> int:
    """Plays episodes on one process, and prints and writes as :func:`run` does."""
    with Terminal(stderr=True).status("") as status:
        measurement = play_run(run_dir, episodes, features, data_from, progress=status.update)
    return _written(measurement, run_dir, None, out, page)


def _written(measurement: Measurement, run_dir: Path, picture: bytes | None, out: Path, page: Path | None) -> int:
    """Prints a table, and writes a JSON and a page if given."""
    write_json(out, measurement.to_dict())
    console = Terminal(width=None if sys.stdout.isatty() else WIDTH)
    console.print(measurement.table())
    for line in measurement.remarks():
        console.print(line, highlight=False, soft_wrap=True)
    print(f"{out}: {run_dir}")
    document = measurement.page(run_dir, picture) if page is not None else None
    if page is not None and document is not None:
        write_text(page, document)
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
    check_least(("--num", spec.num, 2), ("--likelihood", spec.likelihood, 0), ("--seed", spec.seed, 0))
    if _measured_by_task(run_dir):
        with opened_network(run_dir) as restored:
            return _measured(run_dir, restored, spec, picture, progress)
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
        return _measured(run_dir, flow.under(controls), spec, picture, progress)


def play_run(
    run_dir: Path,
    episodes: Episodes,
    features: Path | None = None,
    data_from: Path | None = None,
    *,
    progress: Progress = lambda _: None,
) -> FewShotMeasurement:
    """Plays episodes on features, from the run's network or from a file, of its held-out examples or another run's."""
    config = load_run(newest_checkpoint(run_dir))
    data = config.data if data_from is None else load_run(newest_checkpoint(data_from)).data
    if tuple(data.shape) != tuple(config.data.shape):
        problem = f"has examples of shape {list(data.shape)}, and {run_dir} {list(config.data.shape)}"
        raise ValueError(f"--data-from: {data_from} {problem}; give a run of the same shape")
    if features is not None:
        check_extractor(features, data.shape)
    elif not isinstance(meta_network(config), GivesFeatures):
        raise ValueError(
            f"run_dir: {run_dir} holds a {config.model.kind} model, which gives no features; name some by --features "
            "(the features verb trains a classifier for them), or give the run of an autoencoder"
        )
    batch = played_examples(data, episodes)
    with opened_network(run_dir) as restored:
        device = next(restored.model.parameters()).device
        if features is not None:
            extract, name = read_extractor(features, device), f"features of {features.name}"
        else:
            assert isinstance(restored.model, GivesFeatures)
            extract, name = restored.model.features, "features of the run"
        of_run = {"checkpoint": restored.checkpoint, "device": device, "progress": progress}
        return measure_features(extract, name, batch, episodes, about=in_words(data), **of_run)


def check_options(run_dir: Path, given: Sequence[str]) -> None:
    """Refuses options that apply to flows alone, for a run without a flow."""
    if given and _measured_by_task(run_dir):
        does = "builds objects" if builds_objects(run_dir) else "learns features"
        raise ValueError(f"{given[0]}: {run_dir} {does} and follows no flow; leave it out (--num and --seed are read)")


def _measured(
    run_dir: Path,
    trained: TrainedFlow | TrainedNetwork,
    spec: MeasurementSpec,
    picture: Path | None,
    progress: Progress,
) -> Measurement:
    """Returns the measurement of a run's network by its task; first draws a picture if `picture` is given."""
    task, networks = trainer.task.build(trained.config), TrainedNetworks(trained.model)
    if picture is not None:
        progress("drawing a picture")
        task.show(networks, picture, seed=trained.config.run.seed)
    measurement = task.measure(networks, replace(spec, checkpoint=trained.checkpoint), progress)
    if measurement is None:
        raise ValueError(f"run_dir: the task of {run_dir} has nothing to measure; write its method measure")
    return measurement


def _measured_by_task(run_dir: Path) -> bool:
    """Whether a run has no flow, so that its task measures it."""
    if not run_dir.exists():
        return False
    return isinstance(load_run(newest_checkpoint(run_dir)).sample, ObjectSample | ExampleSample | SurfaceSample)


def _check_likelihood(config: RunConfig) -> None:
    """Refuses the likelihood of a flow whose source has no density, or whose velocity cannot be integrated back."""
    assert isinstance(config.sample, FlowSample)
    run, source = config.run.dir, config.source_data
    for has_none, problem in (
        (source is not None, f"samples of {run} start at {source and source.kind} data, whose density is unknown"),
        (config.alphabet, f"{run} draws letters, which have no density"),
        (config.labels_in_state, f"{run} starts at noise beside a class, which has no density"),
        (config.species, f"{run} draws atoms, some of which stay where they are and have no density"),
        (config.encodes_captions, f"{run} starts at captions, whose density is unknown"),
    ):
        if has_none:
            raise ValueError(f"--likelihood: {problem}; leave it out")
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
