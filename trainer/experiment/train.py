"""The train verb: one run, or all stages of a configuration."""

from collections.abc import Sequence
from pathlib import Path

from netsim.foundation.outputs import OPTION, OutputFolder
from trainer.distributed.consistency import compare, consistent_ranks
from trainer.distributed.first_rank import first_rank_looks
from trainer.distributed.groups import Launch
from trainer.distributed.process.exit_status import RanksMissing
from trainer.distributed.process.signals import end_with_launcher
from trainer.distributed.run_folder import one_folder
from trainer.distributed.start_store import StartStore
from trainer.experiment.stage.protocol import Stage
from trainer.experiment.stage.reading import chosen, load_stages
from trainer.experiment.stage.running import check_read, run_stages
from trainer.training.facts import given
from trainer.training.guard import RunFailed

_RUN = OutputFolder("run.dir", ("config.yaml", "checkpoints"))


def run(path: Path, overrides: Sequence[str], only: str | None = None, *, overwrite: bool = False) -> int:
    """Trains one rank, or runs all stages of a configuration that has some, or `only` one.

    Returns 0, or 75 if stopped and saved. Raises ValueError before anything is joined or written, and RunFailed if the
    run cannot continue or a rank did not join.
    """
    end_with_launcher()
    ranks = StartStore(Launch.from_environment())
    try:
        with consistent_ranks(ranks, path):
            stages = load_stages(path, overrides)
            if ranks.launch.rank == 0:
                for stage in stages:
                    if stage.trains and only in (None, stage.name) and stage.folder.is_dir():
                        _RUN.check(stage.folder, overwrite=overwrite)
            if stages[0].name and only is None:  # its stages compare themselves
                again = [OPTION] if overwrite else []
                return run_stages(stages, path, [*overrides, *again], ranks.launch)
            stage = chosen(stages, only)
            with first_rank_looks(ranks):
                _compare_given(ranks, stage, stages)
                check_read(stage, stages)
                return stage.run(ranks.launch)
    except RanksMissing as error:
        raise RunFailed(str(error)) from error


def _compare_given(ranks: StartStore, stage: Stage, stages: Sequence[Stage]) -> None:
    document = {"stages": {one.name: one.document for one in stages}} if stage.name else stage.document
    with one_folder(ranks, stage.folder) as objection:
        compare(ranks, "given", given(document, ranks.launch), objection=objection)
