"""The sink for Weights & Biases, against a stand-in for its package."""

import importlib.machinery
import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from netsim.foundation.extra import require
from tests.trainer.commands import ALONE, DIGITS, refused
from trainer.config.sections import WandbConfig
from trainer.observe.dashboards import Wandb


class RefusalError(Exception):
    pass


class Service(ModuleType):
    """Keeps what it is sent."""

    Error = RefusalError

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", loader=None)
        self.started: list[dict[str, Any]] = []
        self.sent: list[dict[str, float]] = []
        self.axes: list[tuple[str, Any]] = []
        self.refuses, self.finished = False, 0

    def init(self, **settings: Any) -> "Service":
        if self.refuses:
            raise RefusalError("api_key not configured (no-tty).\nCall wandb.login")
        self.started.append(settings)
        return self

    def define_metric(self, name: str, **options: Any) -> None:
        self.axes.append((name, options.get("step_metric")))

    def log(self, values: dict[str, float]) -> None:
        self.sent.append(values)

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    stand_in = Service()
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    return stand_in


@pytest.fixture
def _no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "wandb" else found(name, *rest))


def opened(folder: Path, *, last_step: int = 0, **settings: Any) -> Wandb:
    return Wandb(WandbConfig(project="flows", **settings), folder, {"run": {"seed": 3}}, last_step=last_step)


def test_figures_arrive_over_the_step(service: Service, tmp_path: Path) -> None:
    sink = opened(tmp_path, entity="us", mode="offline")
    sink.write(10, {"loss": 0.5, "time.step_s": 0.07})
    sink.close()
    (started,) = service.started
    assert {name: started[name] for name in ("project", "entity", "mode", "dir")} == {
        "project": "flows",
        "entity": "us",
        "mode": "offline",
        "dir": str(tmp_path),
    }
    assert started["name"] == tmp_path.name
    assert started["config"] == {"run": {"seed": 3}}
    assert service.sent == [{"step": 10, "loss": 0.5, "time/step_s": 0.07}]
    assert ("*", "step") in service.axes
    assert service.finished == 1


def test_a_resumed_run_is_the_same_run_and_a_new_one_another(service: Service, tmp_path: Path) -> None:
    for last_step in (0, 40, 40, 0):
        opened(tmp_path, last_step=last_step)
    first, second, third, anew = (started["id"] for started in service.started)
    assert first == second == third != anew
    assert all(started["resume"] == "allow" for started in service.started)
    assert [path.name for path in tmp_path.iterdir()] == ["wandb.id"]


def test_a_refusal_of_the_service_is_one_line(service: Service, tmp_path: Path) -> None:
    service.refuses = True
    with pytest.raises(ValueError, match=r"^observe\.wandb: flows cannot be opened \(api_key .*\); sign in") as error:
        opened(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("_no_package")
def test_without_the_package_a_run_is_refused_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wanted = "observe.wandb={project: flows}"
    for verb, rest in (("train", []), ("check", ["--world-size", "1"])):
        line = refused(capsys, verb, DIGITS, *ALONE, wanted, f"run.dir={tmp_path / 'run'}", *rest)
        assert "observe.wandb: the package wandb is not installed here; pip install 'flowfabric[wandb]'" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("service")
def test_the_stand_in_satisfies_what_is_asked_before() -> None:
    require("wandb", field="observe.wandb")


def test_only_its_sink_knows_the_package_and_the_extra_exists() -> None:
    imports = re.compile(r"""(import|from) wandb\b|import_module\("wandb"\)""")
    files = (path for package in ("netsim", "moe", "trainer") for path in Path(package).rglob("*.py"))
    assert [str(path) for path in files if imports.search(path.read_text())] == ["trainer/observe/dashboards.py"]
    metadata = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert any(requirement.startswith("wandb>=") for requirement in metadata["optional-dependencies"]["wandb"])
    assert not any(requirement.startswith("wandb") for requirement in metadata["dependencies"])
