"""The files of configs/examples, each run for a few steps."""

import runpy
from pathlib import Path

import pytest
import torch
import yaml

from tests.forked import ROOT, command
from tests.trainer.untrained import save_untrained, untrained_run
from trainer import load_config
from trainer.__main__ import main
from trainer.config.run import RunConfig
from trainer.flow import Condition, target
from trainer.flow import path as flow_path
from trainer.flow.field import NetworkField

EXAMPLES = ROOT / "configs" / "examples"
TARS = EXAMPLES / "webdataset.yaml"
OPERATOR = EXAMPLES / "own_operator.yaml"
"""Asked of a run that is trained already; see tests/trainer/sampling/restoration."""
REWARD = EXAMPLES / "own_reward.yaml"
"""Goes on from a run that is trained already."""
RUNS = sorted(set(EXAMPLES.glob("*.yaml")) - {TARS, OPERATOR, REWARD})
DRAWN_BELOW = EXAMPLES / "own_control.yaml"
"""Whose class a shorter test reads and draws with."""
TRAINED = [pytest.param(path, marks=pytest.mark.slow if path == DRAWN_BELOW else (), id=path.stem) for path in RUNS]
FEW = (
    "optim.steps=3",
    "optim.warmup_steps=1",
    "optim.global_batch=16",
    "evaluate.every=3",
    "observe.tensorboard=false",
)


def test_every_module_has_its_configuration() -> None:
    modules = {path.stem for path in EXAMPLES.glob("*.py")} - {"plain_loop"}
    assert modules == {path.stem for path in (*RUNS, TARS, OPERATOR, REWARD)}


def test_the_plain_loop_learns(capsys: pytest.CaptureFixture[str]) -> None:
    program = runpy.run_path(str(EXAMPLES / "plain_loop.py"))
    with torch.random.fork_rng():
        program["main"].__globals__["STEPS"] = 150
        program["main"]()
    said = capsys.readouterr().out.split()
    from_samples, from_noise = float(said[said.index("lie") + 1]), float(said[-1])
    assert from_samples < from_noise / 2


@pytest.mark.parametrize("path", TRAINED)
def test_an_example_is_trained_and_read_again(path: Path, tmp_path: Path) -> None:
    name = str(path.relative_to(ROOT))
    result = command("train", name, *FEW, f"run.dir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr
    asked = load_config(path, [*FEW, f"run.dir={tmp_path / 'run'}"])
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert RunConfig.model_validate(written) == asked
    assert f"configs.examples.{path.stem}:" in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.parametrize("name", ["own_control", "own_cost"])
def test_what_changes_the_field_is_drawn_under(name: str, tmp_path: Path) -> None:
    """By the line of the file; a control of strength 0 and none at all draw the same bytes."""
    config = load_config(
        EXAMPLES / f"{name}.yaml", [f"run.dir={tmp_path / 'run'}", "model.hidden=16", "model.num_layers=1"]
    )
    save_untrained(config, 10)
    (own,) = yaml.safe_load(config.to_yaml())["sample"]["controls"]
    asked = {"own": (), "none": ("--controls", "[]"), "zero": ("--controls", yaml.safe_dump([{**own, "strength": 0}]))}
    for file, words in asked.items():
        out = str(tmp_path / f"{file}.png")
        assert main(["sample", str(tmp_path / "run"), "--trust-code", "--num", "10", *words, "--out", out]) == 0
    pictures = {file: (tmp_path / f"{file}.png").read_bytes() for file in asked}
    assert pictures["none"] == pictures["zero"] != pictures["own"]


def test_the_cost_is_that_of_ink_on_the_right() -> None:
    """Paper at t costs nothing, whatever is on the left; ink on the right costs its square."""
    cost = runpy.run_path(str(EXAMPLES / "own_cost.py"))["InkOnTheRight"]
    x, t = -torch.linspace(0.1, 0.9, 3).view(3, 1, 1, 1).expand(3, 1, 8, 8).clone(), torch.linspace(0.1, 0.9, 3)
    x[..., :4] = 1.0
    x[1, 0, 2, 6] += 0.5
    torch.testing.assert_close(cost(cost.Config())(x, t, None), torch.tensor([0.0, 0.25, 0.0]))


def test_the_reward_is_that_of_mirror_images() -> None:
    """0 for what is its own mirror image, the squared difference otherwise; its gradient makes both halves alike."""
    reward = runpy.run_path(str(EXAMPLES / "own_reward.py"))["MirrorImage"]
    images = torch.zeros(2, 1, 8, 8)
    images[1, 0, 2, 1] = 1.0
    images.requires_grad_()
    rewards = reward(reward.Config(weight=4.0))(images, None)
    torch.testing.assert_close(rewards, torch.tensor([0.0, -4.0 * 2 / 64]))
    (gradient,) = torch.autograd.grad(rewards.sum(), images)
    assert float(gradient[1, 0, 2, 1]) < 0 < float(gradient[1, 0, 2, 6])


@pytest.mark.slow
def test_an_own_reward_tilts_a_base(tmp_path: Path) -> None:
    base = untrained_run(
        tmp_path / "base", {"model": {"hidden": 16, "num_layers": 1}, "data": {"kind": "digits", "held_out": 64}}
    )
    few = ("optim.steps=2", "optim.warmup_steps=1", "optim.global_batch=8", "task.steps=4", "task.nodes=2")
    saved = ("checkpoint.every=1", "evaluate.every=2", "sample.every=null", f"task.base={base}")
    folder = f"run.dir={tmp_path / 'run'}"
    result = command("train", str(REWARD.relative_to(ROOT)), *few, *saved, folder)
    assert result.returncode == 0, result.stderr
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["model"]["hidden"] == 16, "what the file leaves out is that of the base"


def test_the_control_of_a_brightness_leads_there() -> None:
    """On a field that stands still at any state, the mean of the image in sight goes to the wanted one."""
    program = runpy.run_path(str(EXAMPLES / "own_control.py"))
    path = flow_path.LinearConfig().build()
    field = NetworkField(lambda x, _t: x, target.Data().build(path))
    wanted = program["Brightness"].Config(mean=0.25, strength=3.0)
    x, t = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.full((5,), 0.5)
    changed = program["Brightness"](wanted, path).over(field)(x, t) - field(x, t)
    torch.testing.assert_close(changed, (3.0 * (0.25 - x.mean((1, 2, 3), keepdim=True))).expand_as(x))


def test_tars_are_written_indexed_and_trained_on(tmp_path: Path) -> None:
    runpy.run_path(str(EXAMPLES / "webdataset.py"))["main"](tmp_path / "tars")
    pattern, index = str(tmp_path / "tars" / "digits-{000..007}.tar"), str(tmp_path / "index")
    assert main(["index-tars", pattern, "--out", index]) == 0
    where = (f"data.path={pattern}", f"data.index={index}", "sample.every=null", f"run.dir={tmp_path / 'run'}")
    result = command("train", str(TARS.relative_to(ROOT)), *FEW, *where)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "checkpoints" / "step_00000003" / "COMPLETE").exists()


def test_the_coupling_shortens_the_way() -> None:
    """Pairs by rank along a direction keep both sets of points, and lie closer than pairs at random."""
    coupling = runpy.run_path(str(EXAMPLES / "own_coupling.py"))["AlongDirection"]
    x_1 = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 0.1])
    x_0 = torch.randn(200, 2, generator=torch.Generator().manual_seed(1))
    pairs = coupling(coupling.Config()).draw(x_1, None, x_0=x_0, generator=torch.Generator().manual_seed(2))
    assert torch.equal(pairs.x_1, x_1)
    assert torch.equal(pairs.x_0.sort(0).values, x_0.sort(0).values)
    assert (pairs.x_1 - pairs.x_0).square().sum(1).mean() < 0.8 * (x_1 - x_0).square().sum(1).mean()


def test_a_code_on_the_circle_is_read_back() -> None:
    program = runpy.run_path(str(EXAMPLES / "own_label_field.py"))
    circle, label = program["Circle"](program["Circle"].Config()), torch.arange(12)
    for rest in ((), (3, 3)):
        uniform = torch.rand(12, 2, *rest, generator=torch.Generator().manual_seed(0))
        field = circle.encode(Condition(label), uniform, 12)
        assert torch.equal(circle.decode(field, 12), label)
        assert torch.allclose(field.square().sum(1), torch.tensor(1.5**2))


def test_the_velocity_of_the_path_is_its_derivative() -> None:
    program = runpy.run_path(str(EXAMPLES / "own_path.py"))
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    before, here, after = (program["schedule"](time, 1.5) for time in (t - 1e-6, t, t + 1e-6))
    torch.testing.assert_close((after.a - before.a) / 2e-6, here.da)
    torch.testing.assert_close((after.b - before.b) / 2e-6, here.db)
    torch.testing.assert_close(here.a + here.b, torch.ones_like(t))
