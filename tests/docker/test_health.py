"""docker/health.py on a pretended folder of processes, with a page that answers or does not."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.scripts import ROOT
from trainer.observe.prometheus import Prometheus

SPECIFICATION = importlib.util.spec_from_file_location("health", ROOT / "docker" / "health.py")
assert SPECIFICATION is not None
assert SPECIFICATION.loader is not None
health = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(health)

LAUNCH = ("bash", "docker/launch.sh")
AGENT = ("python", "-m", "trainer.distributed.process.agent", "--nodes", "2")


def started(folder: Path, number: int, *words: str, **variables: str) -> None:
    process = folder / str(number)
    process.mkdir()
    (process / "cmdline").write_text("\0".join(words) + "\0")
    (process / "environ").write_text("".join(f"{name}={value}\0" for name, value in variables.items()))


@pytest.fixture
def port() -> Iterator[int]:
    """Where a page of figures is served."""
    sink = Prometheus(host="127.0.0.1", port=0)
    yield sink.port
    sink.close()


def test_without_a_process_of_the_trainer_a_node_is_not_alive(tmp_path: Path) -> None:
    started(tmp_path, 1, *LAUNCH, "a.yaml")
    started(tmp_path, 7, "python", "-m", "http.server")
    assert health.missing(tmp_path) == "no process of the trainer"
    started(tmp_path, 8, *AGENT)
    assert health.missing(tmp_path) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_node_0_serves_the_page_that_its_command_line_asks_for(tmp_path: Path, port: int, host: str) -> None:
    started(tmp_path, 1, *LAUNCH, "a.yaml", f"observe.port={port}", f"observe.host={host}", NODE_RANK="0")
    started(tmp_path, 8, *AGENT)
    assert health.missing(tmp_path) is None


@pytest.mark.parametrize(
    ("words", "variables", "alive"),
    [
        ((), {}, False),
        ((), {"NODE_RANK": "1"}, True),
        (("--node-rank", "1"), {}, True),
        (("--node-rank=1",), {"NODE_RANK": "0"}, True),
    ],
)
def test_a_page_that_does_not_answer_counts_on_node_0_alone(
    tmp_path: Path, words: tuple[str, ...], variables: dict[str, str], alive: bool
) -> None:
    started(tmp_path, 1, *LAUNCH, *words, "a.yaml", "observe.port=1", **variables)
    started(tmp_path, 8, *AGENT)
    missing = health.missing(tmp_path)
    assert (missing is None) is alive
    assert alive or missing.startswith("http://127.0.0.1:1/metrics: ")
