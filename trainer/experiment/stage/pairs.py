"""A stage that draws pairs from a trained network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from netsim.foundation.refusal import Refusal
from trainer.checkpoint.intact import newest_checkpoint
from trainer.checkpoint.manifest import Manifest
from trainer.config.derived import with_controls
from trainer.config.file import load_run
from trainer.config.rules.drawing import of_drawn
from trainer.config.rules.objection import Objections, caught
from trainer.data.shard.index import INDEX, PairIndex
from trainer.distributed.groups import Launch
from trainer.experiment.stage.protocol import Cost, Provenance, Stage, TaughtStage, filled, until_awaited
from trainer.sampling.pairs_request import PairsRequest


@dataclass(frozen=True)
class PairsStage(TaughtStage):
    """Pairs of source and data points that a teacher draws; its document is what is asked of the teacher."""

    verb = "pairs"

    @classmethod
    def of(cls, path: Path, name: str, base: str, shared: dict[str, Any], settings: dict[str, Any]) -> Self:  # noqa: ARG003
        """The other sections of the file say nothing about a teacher."""
        return cls(name, path, Path(base) / name, filled(settings, base))

    @property
    def finished(self) -> bool:
        """Whether the index of the pairs is there, which is written last."""
        return (self.folder / INDEX).exists()

    @property
    def cost(self) -> Cost:
        return Cost(pairs=self.request().num)

    @property
    def share_done(self) -> float:
        """By its shards."""
        shards = -(-self.cost.pairs // self.request().shard_examples)
        return len(list(self.folder.glob("shard_*.safetensors"))) / shards

    @property
    def teacher(self) -> Path:
        return self.request().run

    def request(self) -> PairsRequest:
        """What is asked of the teacher."""
        return self._validated(PairsRequest, self.document)

    def objections(self, world_size: int, stages: Sequence[Stage]) -> Objections:  # noqa: ARG002  any number of ranks draws pairs
        request, teacher = self.request(), self._check_teacher(stages)
        if teacher is not None:
            yield from self._blamed(of_drawn(with_controls(teacher, ()), request.sampler, request.guidance))
        yield from self._blamed(until_awaited(caught(request.resolved), self.awaited(stages)))
        yield from self._of_held_out(request.num, stages)

    def run(self, launch: Launch) -> int:  # noqa: ARG002  the verb asks the launcher itself
        from trainer.sampling.pairs import run as draw_pairs

        return draw_pairs(self.request(), self.folder)

    def describe(self, world_size: int, stages: Sequence[Stage]) -> None:  # noqa: ARG002  any number of ranks draws pairs
        """Prints what is asked of the teacher."""
        print(self.request().model_dump_json())

    def provenance(self) -> Provenance:
        """The index of the pairs is the record, the teacher's weights decide too."""
        request = self.request().resolved()
        folder = newest_checkpoint(request.run)
        source = load_run(folder).source_data
        weights = Manifest.read(folder).weights_sha256()
        made = PairIndex.read(self.folder).made_by
        now = request.what_decides(weights, source and source.model_dump(mode="json"))
        return Provenance(self.folder / INDEX, dict(made), now)

    def _of_held_out(self, num: int, stages: Sequence[Stage]) -> Objections:
        """Pairs of which a later stage holds out all."""
        for stage in stages[stages.index(self) + 1 :]:
            match stage.document.get("data"):
                case {"path": path, "held_out": int(held_out)} if Path(str(path)) == self.folder and held_out >= num:
                    problem = f"{num} leave none to train on to stage {stage.name}, which holds out {held_out}"
                    remedy = f"draw more, or lower stages.{stage.name}.data.held_out"
                    yield Refusal(self.path, f"stages.{self.name}.num", problem, remedy)
