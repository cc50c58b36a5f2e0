"""The sample verb: numbers, classes, samplers and steps that are asked for, and a run that saves meanwhile."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.each import each
from tests.ranks import run_ranks
from tests.trainer.commands import refused
from tests.trainer.untrained import save_untrained, untrained_run
from trainer.__main__ import main
from trainer.checkpoint.directory import prune
from trainer.config.file import load_config
from trainer.config.run import RunConfig
from trainer.data import write_shards
from trainer.flow.sampler import Euler, Heun, Segmented
from trainer.sampling import trained
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.sample import DrawingRequest, drawing
from trainer.sampling.sampler_choice import SamplerChoice, with_steps

NAMES = ("cat", "dog", "fox")
NETWORK = {"model": {"hidden": 16, "num_layers": 1, "num_heads": 2, "patch_size": 4, "label_dropout": 0.1}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images of three classes with names."""
    folder = tmp_path_factory.mktemp("three")
    images = np.random.default_rng(0).uniform(-1, 1, (30, 1, 8, 8)).astype(np.float32)
    write_shards(folder / "shards", [(images, np.arange(30) % 3)], num_classes=3, class_names=NAMES)
    data = {"kind": "shards", "path": str(folder / "shards"), "held_out": 3}
    sampler = {"sample": {"sampler": {"kind": "euler", "steps": 2}, "guidance": 1.0}}
    return untrained_run(folder / "run", {"data": _resolved(data), **NETWORK, **sampler})


def _resolved(data: dict[str, Any]) -> dict[str, Any]:
    from trainer.data import ShardsConfig

    return ShardsConfig.resolved(data)


def labels_of(run: Path, **asked: Any) -> list[int]:
    with drawing(DrawingRequest(run_dir=run, **asked)) as draws:
        return draws.conditioning.labels.tolist()


def test_without_a_number_every_class_has_as_many_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", str(run), "--out", str(tmp_path / "grid.png")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'grid.png'}: 24 images of step_00000010, guidance 1\n"
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width == 3 * 66 + 2
        assert grid.height > 8 * 66 + 2, "names stand above the columns"


def test_any_number_is_drawn_and_the_classes_take_turns(run: Path) -> None:
    assert labels_of(run, num=7) == [0, 1, 2, 0, 1, 2, 0]
    assert labels_of(run, num=4, classes=("fox", "0")) == [2, 0, 2, 0]
    assert labels_of(run, num=2, classes=("dog,fox",)) == [1, 2]
    assert labels_of(run, classes=("dog",)) == [1] * 80


@each(("count", "num"), [(0, 80), (1, 80), (3, 24), (10, 80), (64, 64), (1000, 80)])
def test_eighty_images_at_most_whatever_the_classes(count: int, num: int, run: Path) -> None:
    config = load_config(run / "checkpoints" / "step_00000010" / "config.yaml")
    data = config.data.model_copy(update={"num_classes": count})
    assert DrawingRequest(run_dir=run).number(config.model_copy(update={"data": data}), ()) == num


def test_an_example_depends_on_its_number_and_its_class_alone(run: Path) -> None:
    """The first dog of a grid of all classes is image 1, whatever else is drawn."""
    with drawing(DrawingRequest(run_dir=run, num=7, seed=3)) as draws:
        seven = draws.examples(1.0)
    with drawing(DrawingRequest(run_dir=run, num=2, seed=3, classes=("cat", "dog"))) as draws:
        two = draws.examples(1.0)
    assert seven is not None
    assert two is not None
    torch.testing.assert_close(two, seven[:2], rtol=1e-5, atol=1e-6)
    assert (seven[0] - seven[1]).abs().max() > 1e-3


def test_columns_are_the_classes_that_come_in_turn() -> None:
    from trainer.flow import Condition

    def columns(labels: list[int]) -> int:
        return Conditioning(Condition(label=torch.tensor(labels))).columns()

    assert columns([2, 0, 2, 0, 2]) == 2
    assert columns([0, 1, 2]) == 3
    assert columns([0] * 10) == 4
    assert columns([0, 0, 1, 2, 1]) == 3, "labels of held-out images come in no order"


def chosen(run: Path, **asked: Any) -> Any:
    config = load_config(run / "checkpoints" / "step_00000010" / "config.yaml")
    return SamplerChoice(**asked).resolved(run, config, 1.0)


def test_a_sampler_is_a_kind_or_settings_and_has_as_many_steps_as_are_asked_for(run: Path) -> None:
    assert chosen(run) == Euler(steps=2)
    assert chosen(run, steps=5) == Euler(steps=5)
    assert chosen(run, sampler="heun") == Heun()
    assert chosen(run, sampler="{kind: heun, steps: 3}") == Heun(steps=3)
    assert chosen(run, sampler='{"kind": "heun", "steps": 3}', steps=4) == Heun(steps=4)
    segmented = Segmented(segments=3, within=Euler(steps=8))
    assert with_steps(segmented, 6) == Segmented(segments=3, within=Euler(steps=2))


@each(
    ("options", "complaint"),
    [
        (("--num", "0"), "--num: 0 is below 1; use 1 or more"),
        (("--guidance", "-1"), "--guidance: -1.0 is not a number from 0; use 1 for none, 1.5 for sharper images"),
        (("--class", "dig"), "--class: there is no class dig; perhaps dog is meant"),
        (("--class", "7"), "--class: there is no class 7; give one of cat, dog, fox, or a number from 0 to 2"),
        (("--class", "dog,1"), "--class: 1 is asked for twice; give each class once"),
        (("--steps", "0"), "--steps: 0 is below 1; use 1 or more"),
        (("--steps", "-3"), "--steps: -3 is below 1; use 1 or more"),
        (("--sampler", "dopri5", "--steps", "3"), "--steps: dopri5 chooses its steps itself; leave it out, or give "),
        (("--sampler", "heum"), "--sampler.kind: 'heum' is not one of euler, heun, "),
        (("--sampler", "[1"), "--sampler: [1 cannot be read"),
        (("--sampler", "[" * 5000), f"--sampler: {'[' * 80} cannot be read (lists and sections are nested"),
        (("--sampler", "- heun"), "--sampler: - heun is neither a kind nor settings; give a kind such as heun"),
        (("--sampler", "{kind: heun, step: 3}"), "--sampler.step: "),
        (("--sampler", "{kind: heun, steps: 0}"), "--sampler.steps: "),
        (("--sampler", "heun", "--steps", "no.json"), "--sampler: heun does not go with the times of no.json"),
        (("--evaluations", "3"), "--evaluations: 3 chooses among the times of a file; give --steps FILE.json too"),
        (("--evaluations", "3", "--steps", "4"), "--evaluations: 3 chooses among the times of a file"),
        (("--steps", "no.json"), "no.json: file: cannot be read"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(
    options: tuple[str, ...], complaint: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "sample", run, "--out", tmp_path / "grid.png", *options)
    assert said.startswith(complaint)
    assert not list(tmp_path.iterdir())


def test_classes_of_data_without_any_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy = {"data": {"kind": "toy"}, "model": {"kind": "mlp", "hidden": 8, "num_layers": 1}, "sample": {"num": 21}}
    run = untrained_run(tmp_path / "run", toy)
    said = refused(capsys, "sample", run, "--class", "0", "--out", tmp_path / "plot.png")
    assert said == "--class: the data of the run have no classes; leave it out"
    assert main(["sample", str(run), "--out", str(tmp_path / "plot.png")]) == 0
    assert ": 21 points of step_00000010" in capsys.readouterr().out


def test_a_checkpoint_that_the_run_deletes_before_it_is_read_is_replaced_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run saves step 20 and deletes step 10 between the choice of the checkpoint and the reading of its weights."""
    run = untrained_run(tmp_path / "run", {"data": {"kind": "digits"}, **NETWORK, "sample": {"guidance": 1.0}})
    config = load_config(run / "checkpoints" / "step_00000010" / "config.yaml")
    read = trained.restore

    def restore(*arguments: Any) -> Any:
        if not (run / "checkpoints" / "step_00000020").exists():
            save_untrained(config, 20, seed=1)
            prune(run / "checkpoints", 1, 20)
        return read(*arguments)

    monkeypatch.setattr(trained, "restore", restore)
    out = tmp_path / "grid.png"
    assert main(["sample", str(run), "--num", "4", "--steps", "1", "--out", str(out)]) == 0
    assert capsys.readouterr() == (f"{out}: 4 images of step_00000020, guidance 1\n", "")


def choose(rank: int, world_size: int, document: dict[str, Any]) -> tuple[str, float]:
    """What a rank restores if the run goes on while only the first rank has read its checkpoint."""
    import torch.distributed as dist

    from trainer.distributed.groups import Launch, divide_ranks, unite_ranks

    config = RunConfig.model_validate(document)
    launch = Launch(rank=rank, local_rank=rank, world_size=world_size, local_world_size=world_size)
    read, calls = trained.restore, []

    def restore(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > 1:
            return read(*arguments)
        if rank == 0:
            model = read(*arguments)
            save_untrained(config, 20, seed=1)
            prune(config.run.dir / "checkpoints", 1, 20)
            dist.barrier()
            return model
        dist.barrier()
        return read(*arguments)

    trained.restore = restore
    divide_ranks(1, 1)
    found = trained.restored_together(config.run.dir, launch)
    unite_ranks()
    return found.folder.name, float(next(found.model.parameters()).sum())


@pytest.mark.slow
def test_all_ranks_restore_one_checkpoint(tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "run", {"data": {"kind": "digits"}, **NETWORK})
    config = load_config(run / "checkpoints" / "step_00000010" / "config.yaml")
    found = run_ranks(choose, 2, config.model_dump(mode="json"))
    assert found[0] == found[1]
    assert found[0][0] == "step_00000020"
