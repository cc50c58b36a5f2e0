"""A stage that searches grids of times for a trained network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from netsim.foundation.refusal import Refusal
from trainer.checkpoint.intact import newest_checkpoint
from trainer.checkpoint.manifest import Manifest
from trainer.config.file import load_run
from trainer.config.rules.objection import Objections
from trainer.config.run import RunConfig
from trainer.config.sample import FlowSample
from trainer.distributed.groups import Launch
from trainer.experiment.stage.pairs import PairsStage
from trainer.experiment.stage.protocol import Cost, Provenance, Stage, TaughtStage, filled
from trainer.flow.sampler.protocol import StepsFile
from trainer.sampling.sampler_choice import segments_of
from trainer.sampling.step_search import StepsRequest, of_search

STEPS = "steps.json"
"""Name of the file that it writes."""


@dataclass(frozen=True)
class StepsStage(TaughtStage):
    """Grids of times on which few steps come near many; its document is what is asked of the search."""

    verb = "steps"

    @classmethod
    def of(cls, path: Path, name: str, base: str, shared: dict[str, Any], settings: dict[str, Any]) -> Self:  # noqa: ARG003
        """The other sections of the file say nothing about a search."""
        return cls(name, path, Path(base) / name, filled(settings, base))

    @property
    def file(self) -> Path:
        """The file that it writes."""
        return self.folder / STEPS

    @property
    def finished(self) -> bool:
        """Whether the file is there."""
        return self.file.exists()

    @property
    def cost(self) -> Cost:
        """A noise that is followed to its end is a pair."""
        request = self.request()
        return Cost(pairs=request.num + request.fresh)

    @property
    def teacher(self) -> Path:
        return self.request().run

    def request(self) -> StepsRequest:
        """What is asked of the search."""
        return self._validated(StepsRequest, self.document)

    def objections(self, world_size: int, stages: Sequence[Stage]) -> Objections:  # noqa: ARG002  any number of ranks may wait
        request = self.request()
        for stage, field, evaluations in self._users(stages):
            if evaluations not in request.evaluations:
                problem = f"{', '.join(map(str, request.evaluations))} leave out {evaluations}, which stage {stage}"
                remedy = f"add {evaluations}, or change stages.{stage}.{field}"
                yield Refusal(self.path, f"stages.{self.name}.evaluations", f"{problem} reads", remedy)
        config = self._check_teacher(stages)
        if config is not None:
            yield from self._blamed(of_search(config, request))
            yield from self._of_guidance(request, config, stages)

    def run(self, launch: Launch) -> int:  # noqa: ARG002  the verb asks the launcher itself
        from trainer.evaluation.steps import run as search_steps

        return search_steps(self.request(), self.file)

    def describe(self, world_size: int, stages: Sequence[Stage]) -> None:  # noqa: ARG002  any number of ranks may wait
        """Prints what is asked of the search."""
        print(self.request().model_dump_json())

    def provenance(self) -> Provenance:
        """The file is the record, the teacher's weights decide too."""
        request = self.request()
        folder = newest_checkpoint(request.run)
        weights = Manifest.read(folder).weights_sha256()
        file = StepsFile.read(self.file)
        made = {**file.made_by, "guidance": file.guidance, "evaluations": sorted(file.grids)}
        now = _what_decides(request, load_run(folder), weights)
        return Provenance(self.file, {name: made.get(name) for name in now}, now)

    def _of_guidance(self, request: StepsRequest, teacher: RunConfig, stages: Sequence[Stage]) -> Objections:
        """Pairs at the nodes of this search that are drawn with another guidance."""
        assert isinstance(teacher.sample, FlowSample)
        own = request.guidance_for(teacher.sample)
        for stage in stages[stages.index(self) + 1 :]:
            if not isinstance(stage, PairsStage) or stage.request().nodes != self.file:
                continue
            asked = stage.request().guidance
            if asked != own:
                problem = f"{own:g} is not the {asked:g} that stage {stage.name} draws pairs at the nodes with"
                yield Refusal(self.path, f"stages.{self.name}.guidance", problem, "give both one guidance")

    def _users(self, stages: Sequence[Stage]) -> Iterator[tuple[str, str, int]]:
        """Later stages that read a grid: the name of each, the field that says which grid, and what it says."""
        for stage in stages[stages.index(self) + 1 :]:
            match stage.document:
                case {"nodes": str(path), "evaluations": int(evaluations)} if Path(path) == self.file:
                    yield stage.name, "evaluations", evaluations
                case {"sample": {"sampler": sampler}}:
                    evaluations = _evaluations(sampler, self.file)
                    if evaluations is not None:
                        yield stage.name, "sample.sampler", evaluations


def _evaluations(sampler: Any, file: Path) -> int | None:
    """Which grid of a file a section ``sampler`` asks for; None: none, or it is left for its validation to say."""
    match sampler:
        case {"kind": "euler", "times": str(path), "steps": int(steps)} if Path(path) == file:
            return steps
        case {"kind": "segmented", "segments": int(segments), "within": within}:
            inner = _evaluations(within, file)
            return None if inner is None else segments * inner
    return None


def _what_decides(request: StepsRequest, teacher: RunConfig, weights: str) -> dict[str, Any]:
    """Everything that the grids are a function of, by the names that their file uses."""
    assert isinstance(teacher.sample, FlowSample)
    return {
        "weights": weights,
        "search": request.search,
        "nodes": request.nodes_for(segments_of(teacher.sample.sampler)),
        "num": request.num,
        "seed": request.seed,
        "guidance": request.guidance_for(teacher.sample),
        "evaluations": list(request.evaluations),
    }
