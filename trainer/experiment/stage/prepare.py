"""The stages that prepare something for a training: pairs, grids of times, a path, measured objects."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import with_kinds
from trainer.checkpoint.intact import newest_checkpoint
from trainer.checkpoint.manifest import Manifest
from trainer.config.derived import with_controls
from trainer.config.document import merged
from trainer.config.file import load_run
from trainer.config.rules.drawing import of_drawn
from trainer.config.rules.objection import Objections, caught
from trainer.config.run import RunConfig
from trainer.config.sample import FlowSample
from trainer.config.task.environment import MeasuredFile, MeasureRequest
from trainer.data.shard.index import INDEX, PairIndex
from trainer.distributed.groups import Launch
from trainer.experiment.stage.protocol import (
    ConfiguredStage,
    Cost,
    Provenance,
    RequestedStage,
    Stage,
    TaughtStage,
    filled,
    until_awaited,
)
from trainer.flow.path.kinetic_optimal import read_table
from trainer.flow.sampler.protocol import StepsFile
from trainer.sampling.pairs_request import PairsRequest
from trainer.sampling.sampler_choice import segments_of
from trainer.sampling.step_search import StepsRequest, of_search
from trainer.training.path_fit import TABLE, FitRequest, check_fitted_to, without_path


@dataclass(frozen=True)
class PairsStage(TaughtStage[PairsRequest]):
    """Pairs of source and data points that a teacher draws."""

    verb = "pairs"
    asks = PairsRequest
    result = INDEX

    @property
    def cost(self) -> Cost:
        return Cost(pairs=self.request().num)

    @property
    def share_done(self) -> float:
        """The share of its shards that are written."""
        shards = -(-self.cost.pairs // self.request().shard_examples)
        return len(list(self.folder.glob("shard_*.safetensors"))) / shards

    def objections(self, world_size: int, stages: Sequence[Stage]) -> Objections:  # noqa: ARG002  any number of ranks draws pairs
        request, teacher = self.request(), self._check_teacher(stages)
        if teacher is not None:
            yield from self._blamed(of_drawn(with_controls(teacher, ()), request.sampler, request.guidance))
        yield from self._blamed(until_awaited(caught(request.resolved), self.awaited(stages)))
        yield from self._of_held_out(request.num, stages)

    def run(self, launch: Launch) -> int:  # noqa: ARG002  the verb asks the launcher itself
        from trainer.sampling.pairs import run as draw_pairs

        return draw_pairs(self.request(), self.folder)

    def provenance(self) -> Provenance:
        """Returns the settings in the index of the pairs and the current ones, both with the teacher's weights."""
        request = self.request().resolved()
        folder = newest_checkpoint(request.run)
        source = load_run(folder).source_data
        weights = Manifest.read(folder).weights_sha256()
        made = PairIndex.read(self.folder).made_by
        now = request.what_decides(weights, source and source.model_dump(mode="json"))
        return Provenance(self.file, dict(made), now)

    def _of_held_out(self, num: int, stages: Sequence[Stage]) -> Objections:
        """Objects to pairs of which a later stage holds out all."""
        for stage in stages[stages.index(self) + 1 :]:
            match stage.document.get("data"):
                case {"path": path, "held_out": int(held_out)} if Path(str(path)) == self.folder and held_out >= num:
                    problem = f"{num} leave none to train on to stage {stage.name}, which holds out {held_out}"
                    remedy = f"draw more, or lower stages.{stage.name}.data.held_out"
                    yield Refusal(self.path, f"stages.{self.name}.num", problem, remedy)


@dataclass(frozen=True)
class StepsStage(TaughtStage[StepsRequest]):
    """Grids of times on which few steps come near many."""

    verb = "steps"
    asks = StepsRequest
    result = "steps.json"

    @property
    def cost(self) -> Cost:
        """Counts each trajectory from a noise as a pair."""
        request = self.request()
        return Cost(pairs=request.num + request.fresh)

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

    def provenance(self) -> Provenance:
        """Returns the settings in the file of grids and the current ones, both with the teacher's weights."""
        request = self.request()
        folder = newest_checkpoint(request.run)
        weights = Manifest.read(folder).weights_sha256()
        file = StepsFile.read(self.file)
        made = {**file.made_by, "guidance": file.guidance, "evaluations": sorted(file.grids)}
        now = _decides_grids(request, load_run(folder), weights)
        return Provenance(self.file, {name: made.get(name) for name in now}, now)

    def _of_guidance(self, request: StepsRequest, teacher: RunConfig, stages: Sequence[Stage]) -> Objections:
        """Objects to a later stage that draws pairs at the nodes of this search with another guidance."""
        assert isinstance(teacher.sample, FlowSample)
        own = request.guidance_for(teacher.sample)
        for stage in stages[stages.index(self) + 1 :]:
            if not isinstance(stage, PairsStage) or stage.request().nodes != self.file:
                continue
            searched = stage.request().guidance
            if searched != own:
                problem = f"{own:g} is not the {searched:g} that stage {stage.name} draws pairs at the nodes with"
                yield Refusal(self.path, f"stages.{self.name}.guidance", problem, "give both one guidance")

    def _users(self, stages: Sequence[Stage]) -> Iterator[tuple[str, str, int]]:
        """Yields name, field that selects the grid, and its evaluations, for each later stage that reads a grid."""
        for stage in stages[stages.index(self) + 1 :]:
            match stage.document:
                case {"nodes": str(path), "evaluations": int(evaluations)} if Path(path) == self.file:
                    yield stage.name, "evaluations", evaluations
                case {"sample": {"sampler": sampler}}:
                    evaluations = _evaluations(sampler, self.file)
                    if evaluations is not None:
                        yield stage.name, "sample.sampler", evaluations


def _evaluations(sampler: Any, file: Path) -> int | None:
    """Returns the evaluations of the grid in `file` that a section ``sampler`` uses; None if none, or invalid."""
    match sampler:
        case {"kind": "euler", "times": str(path), "steps": int(steps)} if Path(path) == file:
            return steps
        case {"kind": "segmented", "segments": int(segments), "within": within}:
            inner = _evaluations(within, file)
            return None if inner is None else segments * inner
    return None


def _decides_grids(request: StepsRequest, teacher: RunConfig, weights: str) -> dict[str, Any]:
    """Everything that determines the grids, by the names that their file uses."""
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


@dataclass(frozen=True)
class FitPathStage(RequestedStage[FitRequest], ConfiguredStage):
    """A path that is fitted to the data of the runs that its configuration stands for."""

    verb = "fit-path"
    asks = FitRequest
    result = TABLE
    settings: dict[str, Any]

    @classmethod
    def of(cls, path: Path, name: str, base: str, shared: dict[str, Any], settings: dict[str, Any]) -> Self:
        folder = Path(base) / name
        document = merged(without_path(shared), {"run": {"dir": str(folder)}})
        return cls(name, path, folder, filled(document, base), filled(settings, base))

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

        return fit_path(self.config(), self.request(), self.file)

    def describe(self, world_size: int, stages: Sequence[Stage]) -> None:
        self.config()
        super().describe(world_size, stages)

    def provenance(self) -> Provenance:
        """Returns the settings recorded in the table, without its figures of the data, and the current ones."""
        now = self.request().what_decides(self.config())
        made = read_table(self.file).made_by
        return Provenance(self.file, {name: value for name, value in made.items() if name in now}, now)


@dataclass(frozen=True)
class MeasureStage(TaughtStage[MeasureRequest]):
    """A batch of objects that a policy, or even choices, build and whose true objectives are measured."""

    verb = "measure"
    asks = MeasureRequest
    result = "measured.json"

    @classmethod
    def of(cls, path: Path, name: str, base: str, shared: dict[str, Any], settings: dict[str, Any]) -> Self:
        """Makes the stage; of the other sections of the file it reads only the environment that builds objects."""
        task = shared.get("task")
        known = {"environment": task["environment"]} if isinstance(task, dict) and "environment" in task else {}
        return cls(name, path, Path(base) / name, with_kinds(MeasureRequest, filled({**known, **settings}, base)))

    def objections(self, world_size: int, stages: Sequence[Stage]) -> Objections:  # noqa: ARG002  any number of ranks may wait
        request = self.request()
        if request.run is not None:
            self._check_teacher(stages)
        if request.measured is None or any(stage.folder == request.measured.parent for stage in self.awaited(stages)):
            return
        if MeasuredFile.read(request.measured).environment != request.environment:
            problem = f"{request.measured} holds objects of another environment"
            yield Refusal(self.path, f"stages.{self.name}.measured", problem, "give a file of this environment")

    def run(self, launch: Launch) -> int:  # noqa: ARG002  the work asks the launcher itself
        from trainer.experiment.built.measuring import run as measure

        return measure(self.request(), self.file)

    def provenance(self) -> Provenance:
        """Returns the settings in the file of objects and the current ones, both with the policy's weights."""
        from trainer.experiment.built.measuring import weights_of

        request = self.request()
        return Provenance(self.file, MeasuredFile.read(self.file).made_by, request.what_decides(weights_of(request)))
