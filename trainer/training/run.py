"""One rank of a run, from the checks before it joins the others to its last step."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import trainer.data
from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal
from trainer.checkpoint.directory import step_of
from trainer.config.run import RunConfig
from trainer.distributed.consistency import compare_for_good
from trainer.distributed.groups import TIMEOUT_S, Launch
from trainer.distributed.process.lock import locked
from trainer.distributed.process.signals import StopRequest
from trainer.observe.protocol import Sink
from trainer.training.data_record import NAME as DATA
from trainer.training.data_record import sampled
from trainer.training.facts import resolved
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
        # Megatron takes seconds to import: not before the input is known to be good
        from trainer.training.session import train_joined

        def sinks(started: int) -> list[Sink]:
            return [*claimed, *_files(config, started, closing)] if launch.rank == 0 else []

        try:
            return train_joined(config, checked.layout, launch, lambda: task(config), dataset, sinks, stop)
        except Refusal:
            raise
        except ValueError as error:
            raise RuntimeError("the run failed; its input was good") from error


def _claim(config: RunConfig, started: int, closing: ExitStack) -> list[Sink]:
    """Takes the port, locks the folder, and cuts the metrics back to where the run seems to resume from."""
    from trainer.observe.metrics import truncate_after
    from trainer.observe.prometheus import Prometheus

    sinks: list[Sink] = []
    if config.observe.port is not None:
        sinks = [Prometheus(host=config.observe.host, port=config.observe.port)]  # refused: before a folder is made
        closing.callback(sinks[0].close)
    closing.enter_context(locked(config.run.dir))
    truncate_after(config.run.dir / "metrics.jsonl", started)
    with replacing(config.run.dir / "config.yaml") as temporary:
        temporary.write_text(config.to_yaml(), encoding="utf-8")
    return sinks


def _files(config: RunConfig, started: int, closing: ExitStack) -> list[Sink]:
    """Opens the files that rank 0 writes to, cut back to the step that the run does resume from, and its terminal."""
    from trainer.observe.metrics import MetricsFile, truncate_after
    from trainer.observe.tensorboard import TensorBoard
    from trainer.observe.terminal import terminal
    from trainer.observe.weights_and_biases import Wandb

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
