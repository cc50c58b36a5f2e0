"""A stage that fits a path to data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from trainer.config.document import merged
from trainer.config.rules.objection import Objections, caught
from trainer.distributed.groups import Launch
from trainer.experiment.stage.protocol import ConfiguredStage, Provenance, Stage, filled
from trainer.flow.path.kinetic_optimal import read_table
from trainer.training.path_fit import TABLE, FitRequest, check_fitted_to, without_path


@dataclass(frozen=True)
class FitPathStage(ConfiguredStage):
    """A path that is fitted to the data of the runs that its configuration stands for."""

    verb = "fit-path"
    settings: dict[str, Any]

    @classmethod
    def of(cls, path: Path, name: str, base: str, shared: dict[str, Any], settings: dict[str, Any]) -> Self:
        folder = Path(base) / name
        document = merged(without_path(shared), {"run": {"dir": str(folder)}})
        return cls(name, path, folder, filled(document, base), filled(settings, base))

    @property
    def table(self) -> Path:
        """The file that it writes."""
        return self.folder / TABLE

    @property
    def finished(self) -> bool:
        """Whether the table is there."""
        return self.table.exists()

    def request(self) -> FitRequest:
        """How the path is fitted."""
        return self._validated(FitRequest, self.settings)

    def objections(self, world_size: int, stages: Sequence[Stage]) -> Objections:
        self.request()
        yield from super().objections(world_size, stages)
        if not self.awaited(stages):
            yield from self._blamed(caught(check_fitted_to, self.config()))

    def run(self, launch: Launch) -> int:  # noqa: ARG002  the verb asks the launcher itself
        from trainer.training.path_fit import run as fit_path

        return fit_path(self.config(), self.request(), self.table)

    def describe(self, world_size: int, stages: Sequence[Stage]) -> None:  # noqa: ARG002  the path is that of the data
        """Prints how the path is fitted."""
        self.config()
        print(self.request().model_dump_json())

    def provenance(self) -> Provenance:
        """The table itself is the record, and holds figures of the data besides."""
        now = self.request().what_decides(self.config())
        made = read_table(self.table).made_by
        return Provenance(self.table, {name: value for name, value in made.items() if name in now}, now)
