"""One rank among the others: it joins them, resumes, trains, and says how that ended."""

import sys
from collections.abc import Callable
from typing import Any

from trainer.checkpoint.contents import identity_of, resumed_layout
from trainer.checkpoint.directory import step_of
from trainer.checkpoint.intact import newest_intact_collective
from trainer.checkpoint.manifest import Manifest
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.data import Dataset, TooManyBadExamples
from trainer.distributed.groups import Launch, joined, limit_collectives
from trainer.distributed.process.debug import dump_failure
from trainer.distributed.process.exit_status import conclude
from trainer.distributed.process.hang_detector import hang_detector_over_run, watchdog
from trainer.distributed.process.signals import EX_TEMPFAIL, StopRequest
from trainer.observe.protocol import Sink
from trainer.training.assembly import assembled
from trainer.training.data_record import verify
from trainer.training.generators import deterministic_operations
from trainer.training.guard import RunFailed
from trainer.training.loop import train
from trainer.training.task import Task


def train_joined(
    config: RunConfig,
    layout: Layout,
    launch: Launch,
    task: Callable[[], Task[Any]],
    dataset: Dataset,
    sinks: Callable[[int], list[Sink]],
    stop: StopRequest,
) -> int:
    """Trains to the last step from the newest whole checkpoint, if any: 0, or 75 if stopped and saved.

    `sinks` opens what rank 0 sends figures to, from the step that the run resumes after. Raises Refusal if the run
    cannot resume from the whole checkpoint, RunFailed after too many skipped steps or bad examples, and Unreachable if
    the server of the examples does not answer.
    """
    folder, limits, steps = config.run.dir, config.guard, config.optim.steps
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
                if config.run.verify_data and dataset.files:
                    verify(folder, dataset.files, watch.beat)
                resumes = newest_intact_collective(folder / "checkpoints", allow_rng_loss=config.run.allow_rng_loss)
                started = step_of(resumes)
                if resumes is not None:
                    Manifest.read(resumes).check_identity(resumes, identity_of(config))
                    layout = resumed_layout(config, layout, resumes)
                    if started >= steps:
                        if launch.rank == 0:
                            print(f"{folder}: finished at step {started}; nothing to do", file=sys.stderr)
                        return 0
                run = assembled(config, layout, launch, task(), dataset, sinks(started), resumes, stop)
                limit_collectives(limits.collective_timeout_s)
                stop.listen()  # a stop before that has nothing to save
                with deterministic_operations(config.run.deterministic):
                    last = train(run, watch.beat)
                stopped = last < steps and run.guard.failure is None
                if stopped:
                    nodes = launch.world_size // launch.local_world_size
                    conclude(EX_TEMPFAIL, stop.farewell(folder, f"saved at step {last}", nodes))
        except Exception as error:
            dump_failure(folder, launch.rank, launch.world_size, error)
            if isinstance(error, TooManyBadExamples):
                raise RunFailed(str(error)) from error
            raise
    run.trace.finish(stopped=stopped or run.guard.failure is not None)
    if run.guard.failure is not None:
        raise RunFailed(run.guard.failure)
    return EX_TEMPFAIL if stopped else 0
