"""Checkpoints that go on divided otherwise: 4 ranks, 2, then 4 again; and those written in the background."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.ranks import run_ranks
from tests.selected import selected
from tests.trainer.runs import assert_equal_folders
from tests.trainer.training.migration.migrated import Run
from tests.trainer.training.migration.migrated import configuration as with_experts
from trainer.checkpoint.manifest import Manifest
from trainer.checkpoint.storage import SavedState
from trainer.config.run import RunConfig

LAST, FIRST_CUT, SECOND_CUT, FAILS = 3, 1, 2, 4
KINDS = ("weight", "exp_avg", "exp_avg_sq", "ema")
# The engine of each of the three parts, and what its ranks share.
DIVISIONS: dict[str, tuple[tuple[dict[str, Any], dict[str, int]], ...]] = {
    "stages": (({"zero_stage": 1}, {}), ({"zero_stage": 3}, {}), ({"zero_stage": 0}, {})),
    "experts": (
        ({"zero_stage": 1}, {"expert": 2}),
        ({"zero_stage": 2}, {"expert": 1}),
        ({"zero_stage": 0}, {"expert": 4}),
    ),
    "engines": (({"zero_stage": 1}, {}), ({"kind": "fsdp"}, {}), ({"zero_stage": 1}, {})),
    "tensor": (({"zero_stage": 1}, {"tensor": 2}), ({"zero_stage": 1}, {}), ({"zero_stage": 1}, {"tensor": 2})),
    "tensor, engines": (({"kind": "fsdp"}, {"tensor": 2}), ({"zero_stage": 3}, {}), ({"kind": "fsdp"}, {"tensor": 2})),
}
IN_THE_SUITE = {"experts", "tensor, engines"}
"""Every engine and every way of sharing."""
CASES = [pytest.param(case, marks=() if case in IN_THE_SUITE else pytest.mark.slow) for case in DIVISIONS]


def configuration(case: str, part: int, **checkpoint: Any) -> RunConfig:
    """Two examples a micro batch on any number of ranks; the gradient is clipped."""
    engine, parallel = DIVISIONS[case][part]
    document = with_experts(clip_norm=0.5, micro_batch=2).model_dump()
    document |= {"checkpoint": {"keep": 9, **checkpoint}, "engine": engine, "parallel": parallel}
    if case != "experts":
        document["moe"] = None
    return RunConfig.model_validate(document)


def grouped(config: RunConfig) -> RunConfig:
    from trainer.distributed.groups import divide_ranks, unite_ranks

    unite_ranks()
    divide_ranks(config.parallel.expert, config.parallel.tensor)
    return config


def first_four(rank: int, world_size: int, root: Path, cases: list[str]) -> dict[str, Any]:
    """The straight run, and its beginning; saved while it waits, and in the background."""
    found: dict[str, Any] = {}
    for case in cases:
        run = Run(grouped(configuration(case, 0)), world_size)
        found[case] = [run.step(step) for step in range(1, FIRST_CUT + 1)]
        run.save(root / case, FIRST_CUT)
        found[case] += [run.step(step) for step in range(FIRST_CUT + 1, LAST + 1)]
        run.save(root / case / "straight", LAST)
        found["updates"] = run.engine.updates
    found["background"] = background(rank, world_size, root)
    return found


def background(rank: int, world_size: int, root: Path) -> dict[str, Any]:
    """A run that trains on while it is saved, is saved again meanwhile, and cannot write its files on one rank."""
    import resource

    from trainer.checkpoint.saving import Checkpointer, SaveError

    config = grouped(configuration("experts", 0, asynchronous=True))
    run = Run(config, world_size)
    saver = Checkpointer(root / "background", config, run.layout, run.engine, run.average)
    first = root / "background" / f"step_{FIRST_CUT:08d}" / "COMPLETE"
    with held_back() as let_go:
        losses = [run.step(step) for step in range(1, FIRST_CUT + 1)]
        saver.save(FIRST_CUT)
        losses += [run.step(step) for step in range(FIRST_CUT + 1, LAST + 1)]
        complete = [first.exists()]
        torch.distributed.barrier()
        threading.Timer(0.2, let_go.set).start()
        saver.save(LAST)
        complete.append(first.exists())
        saver.wait()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    saver.save(FAILS)
    try:
        saver.wait()
        complaint = ""
    except SaveError as error:
        complaint = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    left = sorted(path.name for path in (root / "background").iterdir())
    torch.distributed.barrier()
    saver.save(FAILS)
    saver.wait()
    return {"losses": losses, "complete": complete, "complaint": complaint, "left": left}


@contextmanager
def held_back() -> Iterator[threading.Event]:
    """While entered, no checkpoint is declared complete before the event."""
    let_go, write = threading.Event(), Manifest.write

    def write_later(self: Manifest, folder: Path) -> None:
        let_go.wait()
        write(self, folder)

    Manifest.write = write_later
    yield let_go
    Manifest.write = write


def then_two(_rank: int, world_size: int, root: Path, cases: list[str]) -> dict[str, Any]:
    return {case: go_on(case, 1, world_size, root, FIRST_CUT, SECOND_CUT) for case in cases}


def then_four(rank: int, world_size: int, root: Path, cases: list[str]) -> dict[str, Any]:
    from trainer.checkpoint.intact import newest_intact_collective

    found: dict[str, Any] = {case: go_on(case, 2, world_size, root, SECOND_CUT, LAST) for case in cases}
    folder = root / "experts" / f"step_{LAST:08d}"
    if rank == 0:
        with (folder / "state" / "rank_00003.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\xff")
    torch.distributed.barrier()
    found["whole"] = newest_intact_collective(root / "experts", allow_rng_loss=False)
    return found


def go_on(case: str, part: int, world_size: int, root: Path, done: int, last: int) -> list[float]:
    run = Run(grouped(configuration(case, part)), world_size, resumes=root / case / f"step_{done:08d}")
    assert run.engine.updates == done
    run.save(root / case / "unchanged", done)
    losses = [run.step(step) for step in range(done + 1, last + 1)]
    run.save(root / case, last)
    return losses


def whole_tensors(checkpoint: Path, kind: str) -> dict[str, torch.Tensor]:
    return {name: saved.values() for name, saved in SavedState(checkpoint / "state").of_kind(kind).items()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("divided")


@pytest.fixture(scope="module")
def parts(request: pytest.FixtureRequest, root: Path) -> list[list[dict[str, Any]]]:
    """What the ranks of each part found; the run in the background is compared with that of the experts."""
    cases = sorted({"experts", *selected(request, "case")})
    return [run_ranks(part, ranks, root, cases) for part, ranks in ((first_four, 4), (then_two, 2), (then_four, 4))]


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_divided_anew_goes_on_as_the_straight_one(parts: list[list[dict[str, Any]]], case: str) -> None:
    straight, two, four = (np.mean([rank[case] for rank in ranks], axis=0) for ranks in parts)
    np.testing.assert_allclose(two, straight[FIRST_CUT:SECOND_CUT], rtol=0, atol=1e-4)
    np.testing.assert_allclose(four, straight[SECOND_CUT:], rtol=0, atol=1e-4)
    assert abs(np.diff(straight)).min() > 1e-3, "the losses change from step to step by more than what is tolerated"


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("step", [FIRST_CUT, SECOND_CUT])
def test_dividing_anew_changes_nothing(root: Path, case: str, step: int) -> None:
    name = f"step_{step:08d}"
    saved, again = (folder / name for folder in (root / case, root / case / "unchanged"))
    assert Manifest.read(saved).updates == Manifest.read(again).updates == step
    assert Manifest.read(saved).division != Manifest.read(again).division
    for kind in KINDS:
        before, after = (whole_tensors(folder, kind) for folder in (saved, again))
        assert before.keys() == after.keys()
        for parameter, values in before.items():
            assert torch.equal(values, after[parameter]), (parameter, kind)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_divided_anew_ends_with_the_weights_of_the_straight_one(root: Path, case: str) -> None:
    name = f"step_{LAST:08d}"
    straight, divided = (whole_tensors(folder / name, "weight") for folder in (root / case / "straight", root / case))
    assert straight.keys() == divided.keys()
    for parameter, values in straight.items():
        torch.testing.assert_close(divided[parameter], values, rtol=0, atol=1e-4, msg=parameter)


def test_what_is_written_in_the_background_is_the_same(root: Path, parts: list[list[dict[str, Any]]]) -> None:
    first, last = (f"step_{step:08d}" for step in (FIRST_CUT, LAST))
    for rank in parts[0]:
        assert rank["background"]["losses"] == rank["experts"]
        assert rank["background"]["complete"] == [False, True], "trained on meanwhile; saved again only behind it"
    assert_equal_folders(root / "experts" / first, root / "background" / first)
    assert_equal_folders(root / "experts" / "straight" / last, root / "background" / last)


def test_a_failure_in_the_background_is_raised_on_every_rank(root: Path, parts: list[list[dict[str, Any]]]) -> None:
    for rank in parts[0]:
        complaint = rank["background"]["complaint"]
        assert complaint.startswith(f"{root / 'background' / f'step_{FAILS:08d}'}: cannot be saved: rank 1: ")
        assert complaint.endswith(f"the run resumes from step {LAST}")
        assert rank["background"]["left"] == [f"step_{step:08d}" for step in (FIRST_CUT, LAST)]
    assert (root / "background" / f"step_{FAILS:08d}" / "COMPLETE").exists(), "the next attempt went well"


def test_ranks_agree_on_an_older_checkpoint_if_a_file_of_the_newest_is_damaged(
    root: Path, parts: list[list[dict[str, Any]]]
) -> None:
    assert {rank["whole"] for rank in parts[2]} == {root / "experts" / f"step_{SECOND_CUT:08d}"}
