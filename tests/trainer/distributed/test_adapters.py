"""RDMA adapters that NCCL would pass over are told before a run starts, on a pretended list of the kernel's."""

import ctypes
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.commands import DIGITS
from trainer.config.file import load_config
from trainer.distributed.groups import check_adapters
from trainer.training.preflight import preflight


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two adapters, of which the second has a link."""
    for name, state in {"mlx5_0": "1: DOWN\n", "mlx5_1": "4: ACTIVE\n"}.items():
        port = tmp_path / name / "ports" / "1"
        port.mkdir(parents=True)
        (port / "state").write_text(state)
    for variable in ("NCCL_IB_DISABLE", "NCCL_NET"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


class Library:
    """libibverbs as a process sees it that can open so many adapters."""

    def __init__(self, number: int) -> None:
        def listed(found: Any) -> int:
            found._obj.value = number
            return 0

        self.ibv_get_device_list = listed


def loads(monkeypatch: pytest.MonkeyPatch, number: int | None) -> None:
    def library(name: str) -> Library:
        assert name == "libibverbs.so.1"
        if number is None:
            raise OSError("cannot open shared object file")
        return Library(number)

    monkeypatch.setattr(ctypes, "CDLL", library)


@pytest.mark.parametrize(
    ("number", "fault"),
    [(None, r"libibverbs\.so\.1 cannot be loaded; install rdma-core"), (0, "opens none of them; give the container")],
)
def test_adapters_beside_sockets_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int | None, fault: str
) -> None:
    loads(monkeypatch, number)
    with pytest.raises(ValueError, match=rf"^NCCL: .*\(mlx5_0, mlx5_1\): .*{fault}.*NCCL_IB_DISABLE=1$"):
        check_adapters(folder)


def test_adapters_without_a_link_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads(monkeypatch, 2)
    (folder / "mlx5_1" / "ports" / "1" / "state").write_text("1: DOWN\n")
    with pytest.raises(ValueError, match="none of their ports is active"):
        check_adapters(folder)


def test_adapters_that_are_used_and_no_adapters_pass(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads(monkeypatch, 2)
    check_adapters(folder)
    loads(monkeypatch, None)
    check_adapters(folder / "nothing")


@pytest.mark.parametrize(("variable", "value"), [("NCCL_IB_DISABLE", "1"), ("NCCL_NET", "Socket")])
def test_sockets_that_are_asked_for_pass(
    folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    loads(monkeypatch, None)
    monkeypatch.setenv(variable, value)
    check_adapters(folder)


@pytest.mark.parametrize(("per_node", "gpus", "asked"), [(1, True, True), (2, True, False), (1, False, False)])
def test_a_run_asks_where_nccl_joins_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_node: int, gpus: bool, asked: bool
) -> None:
    calls: list[bool] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus)
    monkeypatch.setattr("trainer.training.preflight.check_adapters", lambda: calls.append(True))
    config = load_config(Path(DIGITS), [f"run.dir={tmp_path / 'run'}"])
    preflight(config, 2, ranks_per_node=per_node)
    assert bool(calls) is asked
