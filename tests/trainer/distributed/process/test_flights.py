"""Which of torch's flight recorders is asked, by imitations of both."""

import json
import os
from types import SimpleNamespace
from typing import Any

import pytest

from tests.each import each
from trainer.distributed.process import debug as module
from trainer.distributed.process.debug import flights, record_flights
from trainer.distributed.process.hang_detector import OwnProgress, Reached

BUFFERS = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")


def recorder(group: str, issued: int, ended: int) -> Any:
    """What has issued in one group, number 7."""

    def dump(*, includeCollectives: bool) -> bytes:
        status = {"last_enqueued_collective": str(issued), "last_completed_collective": str(ended)}
        entries = [{"pg_id": 7, "process_group": [group, "expert"], "collective_seq_id": issued}]
        told = {"pg_status": {"7": status} if group else {}}
        return json.dumps(told | ({"entries": entries} if includeCollectives and group else {})).encode()

    return dump


@each(
    ("native", "group"),
    [
        ({"_dump_fr_trace_json": recorder("of gloo", 3, 3)}, "of gloo"),
        ({"_dump_fr_trace_json": recorder("", 0, 0), "_dump_nccl_trace_json": recorder("of NCCL", 5, 5)}, "of NCCL"),
        ({"_dump_fr_trace_json": recorder("of gloo", 3, 3), "_dump_nccl_trace_json": recorder("", 0, 0)}, "of gloo"),
        ({"_dump_nccl_trace_json": recorder("of NCCL", 5, 5)}, "of NCCL"),
    ],
)
def test_the_recorder_of_the_backend_is_asked(
    native: dict[str, Any], group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_native", lambda: SimpleNamespace(**native))
    count = 5 if group == "of NCCL" else 3
    assert OwnProgress().read() == {group: Reached(count, count)}
    assert json.loads(flights() or b"")["entries"][0]["process_group"][0] == group


def test_a_torch_without_recorder_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_native", SimpleNamespace)
    assert flights() is None
    assert OwnProgress().read() == {}


@pytest.mark.parametrize(
    ("native", "given", "expected"),
    [
        ({"_dump_fr_trace_json": None}, {}, {BUFFERS[0]: "2000"}),
        ({}, {}, {BUFFERS[1]: "2000"}),
        ({"_dump_fr_trace_json": None}, {BUFFERS[1]: "5"}, {BUFFERS[1]: "5"}),
    ],
)
def test_the_record_is_kept_unless_the_user_says_otherwise(
    native: dict[str, Any], given: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_native", lambda: SimpleNamespace(**native))
    monkeypatch.setattr(module.os, "environ", {**given, "TORCH_NCCL_DUMP_ON_TIMEOUT": "0"})
    record_flights()
    assert {name: os.environ[name] for name in BUFFERS if name in os.environ} == expected
    assert os.environ["TORCH_NCCL_DUMP_ON_TIMEOUT"] == "0"
    assert os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "1"
