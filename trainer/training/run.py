"""One rank of a run, from the checks before it joins the others to its last step."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import trainer.data
from netsim.foundation.files import write_text
from netsim.foundation.refusal import Refusal
from trainer.checkpoint.contents import identity_of, resumed_layout
from trainer.checkpoint.directory import step_of
from trainer.checkpoint.intact import newest_intact_collective
from trainer.checkpoint.manifest import Manifest
from trainer.config.layout import Layout
from trainer.config.rules.plan import describe
from trainer.config.run import RunConfig
from trainer.data.protocol import TooManyBadExamples
from trainer.distributed.consistency import compare_for_good
from trainer.distributed.groups import TIMEOUT_S, Launch, joined, limit_collectives
from trainer.distributed.process.debug import dump_failure
from trainer.distributed.process.exit_status import conclude
from trainer.distributed.process.hang_detector import Watchdog, hang_detector_over_run, watchdog
from trainer.distributed.process.signals import EX_TEMPFAIL, StopRequest
from trainer.distributed.run_folder import locked
from trainer.observe.protocol import Sink
from trainer.training.data_record import NAME as DATA
from trainer.training.data_record import sampled, verify
from trainer.training.facts import resolved
from trainer.training.generators import deterministic_operations
from trainer.training.guard import RunFailed
from trainer.training.preflight import preflight
from trainer.training.schedule import missing_figures
from trainer.training.task import Task


def run(config: RunConfig, launch: Launch, task: Callable[[RunConfig], Task[Any]]) -> int:
    """Trains one rank of a run: 0 if done, 75 if stopped and saved.

    ValueError comes before any process group is joined: the run, its folder or a port cannot be used, or the ranks were
    not started alike. RunFailed: the run cannot continue.
    """
    checked = preflight(config, launch.world_size, ranks_per_node=launch.local_world_size)
    config = checked.config
    dataset = trainer.data.build(config.data, config.source, config.flow and config.flow.captions)
    resumes = checked.newest is not None
    record, lines = sampled(config, dataset, launch.rank, resumes=resumes)
    compare_for_good("resolved", resolved(config, dataset, launch), patience_s=TIMEOUT_S)  # nodes may list data long
    stop = StopRequest()
    with ExitStack() as closing:
        closing.callback(stop.end)  # last: files are closed before
        claimed: list[Sink] = []
        if launch.rank == 0:
            claimed = _claim(config, step_of(checked.newest), closing)
            if record.sets and not (resumes and (config.run.dir / DATA).exists()):
                record.write(config.run.dir / DATA)
            for line in (*checked.cautions, *lines):
                print(line, file=sys.stderr)

        def sinks(started: int) -> list[Sink]:
            return [*claimed, *_files(config, started, closing)] if launch.rank == 0 else []

        # Megatron takes seconds to import: not before the input is known to be good and the folder is locked.
        from trainer.training.assembly import assembled
        from trainer.training.loop import train

        try:
            with _joined_ranks(config, checked.layout, launch) as watch:
                if config.run.verify_data and dataset.files:
                    verify(config.run.dir, dataset.files, watch.beat)
                layout, newest = _resumed(config, checked.layout)
                started, steps = step_of(newest), config.optim.steps
                if newest is not None and started >= steps:
                    if launch.rank == 0:
                        print(f"{config.run.dir}: finished at step {started}; nothing to do", file=sys.stderr)
                    return 0
                training = assembled(config, layout, launch, task(config), dataset, sinks(started), newest, stop)
                limit_collectives(config.guard.collective_timeout_s)
                stop.listen()  # a stop before that has nothing to save
                if launch.rank == 0:
                    origin = f"resumes after step {started}" if started else "starts"
                    print(f"{config.run.dir}: {origin}; {describe(config, layout)}", file=sys.stderr, flush=True)
                with deterministic_operations(config.run.deterministic):
                    last = train(training, watch.beat)
                failure = training.guard.failure
                stopped = last < steps and failure is None
                if stopped:
                    nodes = launch.world_size // launch.local_world_size
                    conclude(EX_TEMPFAIL, stop.farewell(config.run.dir, f"saved at step {last}", nodes))
            training.trace.finish(stopped=stopped or failure is not None)
        except Refusal:
            raise
        except ValueError as error:
            raise RuntimeError("the run failed; its input was good") from error
        if failure is not None:
            raise RunFailed(failure)
        return EX_TEMPFAIL if stopped else 0


@contextmanager
def _joined_ranks(config: RunConfig, layout: Layout, launch: Launch) -> Iterator[Watchdog]:
    """Joins the process groups of a run under a watchdog; an error writes this rank's stacks to the folder."""
    folder, limits = config.run.dir, config.guard
    with watchdog(folder, launch.rank, limits.hang_timeout_s) as watch:
        try:
            with (
                joined(
                    launch,
                    expert_parallel=layout.expert_parallel,
                    tensor_parallel=layout.tensor_parallel,
                    relay_ranks=layout.relay_ranks,
                    timeout_s=limits.collective_timeout_s,
                ),
                hang_detector_over_run(folder, launch.rank, limits.collective_timeout_s),
            ):
                yield watch
        except Exception as error:
            dump_failure(folder, launch.rank, launch.world_size, error)
            if isinstance(error, TooManyBadExamples):
                raise RunFailed(str(error)) from error
            raise


def _resumed(config: RunConfig, layout: Layout) -> tuple[Layout, Path | None]:
    """The newest whole checkpoint, if any, and the division of work that it allows; collective; raises Refusal."""
    resumes = newest_intact_collective(config.run.dir / "checkpoints", allow_rng_loss=config.run.allow_rng_loss)
    if resumes is None:
        return layout, None
    Manifest.read(resumes).check_identity(resumes, identity_of(config))
    return resumed_layout(config, layout, resumes), resumes


def _claim(config: RunConfig, started: int, closing: ExitStack) -> list[Sink]:
    """Takes the port, locks the folder, and cuts the metrics back to the step of the expected checkpoint."""
    from trainer.observe.metrics import truncate_after
    from trainer.observe.prometheus import Prometheus

    sinks: list[Sink] = []
    if config.observe.port is not None:
        sinks = [Prometheus(host=config.observe.host, port=config.observe.port)]  # refused: before a folder is made
        closing.callback(sinks[0].close)
    closing.enter_context(locked(config.run.dir))
    truncate_after(config.run.dir / "metrics.jsonl", started)
    write_text(config.run.dir / "config.yaml", config.to_yaml())
    return sinks


def _files(config: RunConfig, started: int, closing: ExitStack) -> list[Sink]:
    """Opens rank 0's terminal and files, which are cut back to the step from which the run does resume."""
    from trainer.observe.dashboards import TensorBoard, Wandb
    from trainer.observe.metrics import MetricsFile, truncate_after
    from trainer.observe.terminal import terminal

    sinks: list[Sink] = []

    def opened(sink: Sink) -> None:
        closing.callback(sink.close)
        sinks.append(sink)

    truncate_after(config.run.dir / "metrics.jsonl", started)
    missing = missing_figures(config.run.dir, started)
    if missing is not None:
        print(missing, file=sys.stderr, flush=True)
    opened(MetricsFile(config.run.dir / "metrics.jsonl"))
    if config.observe.tensorboard:
        opened(TensorBoard(config.run.dir / "tensorboard", last_step=started))
    if config.observe.wandb is not None:
        settings = config.model_dump(mode="json")
        opened(Wandb(config.observe.wandb, config.run.dir, settings, last_step=started))
    opened(terminal(first_step=started, last_step=config.optim.steps, folder=config.run.dir))
    return sinks
