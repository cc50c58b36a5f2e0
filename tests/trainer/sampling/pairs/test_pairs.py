"""Pairs that a teacher draws: the same whoever draws them and however often it is interrupted."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.each import each
from tests.forked import ROOT
from tests.ranks import run_ranks
from tests.trainer.commands import contents, refused, trained
from tests.trainer.untrained import save_untrained
from trainer import data
from trainer.__main__ import main
from trainer.config.file import load_config
from trainer.config.rules.drawing import of_drawn
from trainer.config.rules.objection import refuse
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.data import PairsConfig
from trainer.distributed.process.signals import EX_TEMPFAIL
from trainer.flow import Condition, sampler
from trainer.sampling import pairs as pairs_run
from trainer.sampling.flow import FlowParts
from trainer.sampling.pairs import PairDrawing
from trainer.sampling.pairs_request import PairsRequest
from trainer.sampling.trained import opened

TOY = str(ROOT / "configs" / "runs" / "toy.yaml")
TINY = ("optim.steps=3", "optim.global_batch=8", "model.hidden=16", "sample.every=null", "data.classes=true")
NUM = 50


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of random weights."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    config = load_config(TOY, [*TINY, f"run.dir={folder}"])
    save_untrained(config, 3)
    (folder / "config.yaml").write_text(config.to_yaml())
    return folder


@pytest.fixture(scope="module")
def undisturbed(teacher: Path) -> Path:
    """Pairs that one process has drawn without interruption."""
    assert main(words(teacher, teacher.parent / "pairs")) == 0
    return teacher.parent / "pairs"


def words(teacher: Path, out: Path, *more: str) -> list[str]:
    chosen = ["--num-pairs", str(NUM), "--shard-examples", "16", "--sampler", "{kind: heun, steps: 4}", "--seed", "3"]
    return ["pairs", str(teacher), "--out", str(out), *chosen, *more]


def read(folder: Path) -> Any:
    return data.build(
        PairsConfig.model_validate(PairsConfig.resolved({"kind": "pairs", "path": str(folder), "held_out": 1}))
    )


def test_a_killed_run_goes_on_where_it_was(
    teacher: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = contents(undisturbed)
    assert sorted(whole) == ["index.json", *(f"shard_0000{number}.safetensors" for number in range(4))]
    killed = tmp_path / "killed"
    shutil.copytree(undisturbed, killed)
    (killed / "index.json").unlink()
    for number in (1, 3):
        (killed / f"shard_0000{number}.safetensors").unlink()
    drawn: list[Any] = []
    kept = PairDrawing.draw

    def noted(self: PairDrawing, request: PairsRequest, numbers: torch.Tensor, told: Any) -> Any:
        drawn.append(numbers.tolist())
        return kept(self, request, numbers, told)

    monkeypatch.setattr(PairDrawing, "draw", noted)
    assert main(words(teacher, killed)) == 0
    assert drawn == [list(range(16, 32)), [48, 49]]
    assert contents(killed) == whole
    assert main(words(teacher, killed)) == 0
    assert len(drawn) == 2, "what is finished is not drawn again"
    assert "other pairs" in refused(capsys, *words(teacher, killed, "--guidance", "2"))
    (killed / "index.json").unlink()
    assert "belongs to other pairs" in refused(capsys, *words(teacher, killed, "--guidance", "2"))


def test_a_stop_ends_the_shard_that_is_being_drawn(
    teacher: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = PairDrawing.draw

    def stopped_in_the_second(self: PairDrawing, request: PairsRequest, numbers: torch.Tensor, told: Any) -> Any:
        if numbers[0] == 16:
            os.kill(os.getpid(), signal.SIGTERM)
        return kept(self, request, numbers, told)

    monkeypatch.setattr(PairDrawing, "draw", stopped_in_the_second)
    assert main(words(teacher, tmp_path / "out")) == EX_TEMPFAIL
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["shard_00000.safetensors"]
    monkeypatch.undo()
    assert main(words(teacher, tmp_path / "out")) == 0
    assert contents(tmp_path / "out") == contents(undisturbed)


def draw_on_ranks(_rank: int, _world_size: int, teacher: str, out: str) -> int:
    """Draws the pairs on the process group that is there already."""
    from contextlib import nullcontext

    from trainer.distributed.groups import Launch, divide_ranks

    divide_ranks(1, 1)
    pairs_run.joined = lambda *_: nullcontext()  # pyright: ignore[reportAttributeAccessIssue]
    launch = Launch(_rank, _rank, _world_size, _world_size)
    Launch.from_environment = classmethod(lambda _: launch)  # pyright: ignore[reportAttributeAccessIssue]
    return main(words(Path(teacher), Path(out)))


def test_ranks_share_the_shards_and_change_nothing(teacher: Path, undisturbed: Path, tmp_path: Path) -> None:
    assert run_ranks(draw_on_ranks, 2, str(teacher), str(tmp_path / "two")) == [0, 0]
    assert contents(undisturbed) == contents(tmp_path / "two")


def test_a_pair_is_where_the_teacher_carries_its_noise(teacher: Path, undisturbed: Path, tmp_path: Path) -> None:
    assert main(words(teacher, tmp_path / "more", "--num-pairs", "60")) == 0
    batch, more = read(undisturbed).get(torch.arange(NUM)), read(tmp_path / "more").get(torch.arange(NUM))
    torch.testing.assert_close(more.x_1, batch.x_1)
    assert batch.labels.tolist() == [number % 8 for number in range(NUM)]
    built = sampler.Heun(steps=4)
    with opened(teacher) as flow, torch.no_grad():
        field = flow.parts.field(flow.model, Condition(batch.labels), 1.0)
        carried = built.build(flow.parts.path).sample(field, batch.x_0, built.grid()).final
    torch.testing.assert_close(carried, batch.x_1, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_pairs_of_a_teacher_between_data_sets_begin_at_its_source(tmp_path: Path, capsys: Any) -> None:
    source = "flow.source={kind: toy, name: rings}"
    between = trained(tmp_path / "run", TOY, *TINY, source, "evaluate.every=null")
    assert main(words(between, tmp_path / "p")) == 0
    pairs, config = read(tmp_path / "p"), load_config(between / "config.yaml")
    begun = FlowParts(config).starts(Condition(), torch.arange(NUM), seed=3)
    assert torch.equal(pairs.get(torch.arange(NUM)).x_0, begun)
    student = [TOY, *TINY[:-1], "data=null", f"data={{kind: pairs, path: {tmp_path / 'p'}, held_out: 4}}"]
    student.append("flow.coupling={kind: paired}")
    resolved = load_config(student[0], student[1:])
    assert resolved.source is None, "the pairs hold their source points"
    assert torch.equal(FlowParts(resolved).starts(Condition(), torch.arange(NUM), seed=3), begun)
    assert load_config(student[0], [*student[1:], source]).source_data == resolved.source_data
    plan_layout(load_config(student[0], [*student[1:], source]), 1)
    said = refused(capsys, "check", *student, "flow.source={kind: toy, name: spirals}")
    assert "flow.source.kind: toy, but the pairs in data.path begin at toy data of other settings; leave" in said


def test_segments_are_the_teachers_steps_from_noised_data(teacher: Path, tmp_path: Path) -> None:
    assert main(words(teacher, tmp_path / "p", "--segments", "4")) == 0
    batch = read(tmp_path / "p").get(torch.arange(NUM))
    first = torch.arange(NUM) % 4
    torch.testing.assert_close(batch.interval, torch.stack([first / 4, (first + 1) / 4], dim=1))
    with opened(teacher) as flow, torch.no_grad():
        field = flow.parts.field(flow.model, Condition(batch.labels), 1.0)
        x, (start, end) = batch.x_0, batch.interval.unbind(1)
        slope = field(x, start)
        heun = x + 0.25 / 2 * (slope + field(x + 0.25 * slope, end))
    torch.testing.assert_close(heun, batch.x_1, rtol=1e-5, atol=1e-5)
    noise = flow.parts.starts(Condition(), torch.arange(NUM), seed=3)
    column, row = ((x - (1 - start)[:, None] * noise) / start[:, None] + 2)[first > 0].floor().long().unbind(1)
    label = batch.labels[first > 0]
    assert torch.equal(row, label // 2), "a square of the checkerboard"
    assert torch.equal(column, 2 * (label % 2) + row % 2)


@each(
    ("more", "problem"),
    [
        (("--num-pairs", "0"), "--num-pairs: "),
        (("--segments", "64"), "--num-pairs: 50 leave some of the 64 segments without a pair"),
        (("--segments", "3"), "3 do not divide the 4 steps of the sampler"),
        (("--sampler", "{kind: rk45}"), "--sampler"),
        (("--sampler", "[" * 5000), "is not YAML (lists and sections are nested more than"),
        (("--guidance", "-1"), "--guidance: "),
    ],
)
def test_wrong_requests_are_refused(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, str], problem: str
) -> None:
    assert problem in refused(capsys, *words(teacher, tmp_path / "p", *more))
    assert not (tmp_path / "p").exists()


@each(
    ("flow", "model", "asked", "message"),
    [
        (
            {"coupling": {"kind": "minibatch_ot"}},
            {"kind": "mlp"},
            {"sampler": {"kind": "euler_maruyama"}},
            "euler_maruyama does not go with",
        ),
        (
            {"path": {"kind": "stochastic_interpolant"}, "target": {"kind": "velocity_and_noise"}},
            {"kind": "mlp"},
            {"sampler": {"kind": "first_order"}},
            "first_order does not go with",
        ),
        ({"target": {"kind": "data"}}, {"kind": "mlp"}, {}, "dopri5 goes badly with flow.target.kind data"),
        ({}, {"kind": "blockwise_mlp"}, {}, "dopri5 steps across the edges"),
        ({}, {"kind": "mlp", "label_dropout": 0}, {"guidance": 2.0}, "asks the network about no class"),
    ],
)
def test_what_a_teacher_itself_may_not_draw_by_is_refused(
    flow: dict[str, Any], model: dict[str, Any], asked: dict[str, Any], message: str
) -> None:
    document = {
        "run": {"dir": "runs/a"},
        "model": model,
        "flow": flow,
        "data": {"kind": "toy", "classes": True},
        "optim": {"steps": 1, "global_batch": 12},
    }
    request = PairsRequest.model_validate({"run": "runs/a", "num": 4, **asked})
    with pytest.raises(ValueError, match=message):
        refuse(of_drawn(RunConfig.model_validate(document), request.sampler, request.guidance))
