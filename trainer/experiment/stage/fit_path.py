"""A stage that fits a path to data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.experiment.stage.protocol import _ConfiguredStage, _Stage
from trainer.training.path_fit.request import TABLE, FitRequest, check_fitted_to


@dataclass(frozen=True)
class FitPathStage(_ConfiguredStage):
    """A path that is fitted to the data of the runs that its configuration stands for.

    Attributes:
        asked: of the fit.
    """

    verb = "fit-path"
    asked: dict[str, Any]

    @property
    def table(self) -> Path:
        """The file that it writes."""
        return self.folder / TABLE

    @property
    def finished(self) -> bool:
        """Whether the table is there."""
        return self.table.exists()

    def request(self) -> FitRequest:
        """What is asked of the fit.

        Raises:
            FileError: it is wrong.
        """
        return self._asked(FitRequest, self.asked)

    def check(self, world_size: int, stages: Sequence[_Stage]) -> None:
        """See the base class."""
        self.request()
        super().check(world_size, stages)
        if not self.awaited(stages):
            config = self.config()
            with self._told():
                check_fitted_to(config)
