import json
import zipfile
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from moe.routing_trace import RoutingHeader, RoutingTrace
from tests.each import each
from tests.moe.traces import dropping_trace, markov_trace

GOLDEN = Path("tests/files/routing.npz")
SCHEMA = json.loads(Path("configs/schemas/routing.schema.json").read_text())
ARRAYS = ("expert_ids", "source_rank", "weights", "step", "micro", "sequence", "position")


@pytest.fixture
def full_trace() -> RoutingTrace:
    routing = dropping_trace(8, 4, 2, 50, seed=0, world_size=4, drop=0.2)
    token = np.arange(50)
    header = routing.header.model_copy(update={"hidden": 64, "element_bytes": 2, "moe_layers": (1, 3, 5, 7)})
    weights = np.random.default_rng(1).random((50, 4, 2)).astype(np.float32)
    return replace(
        routing, header=header, weights=weights, step=token // 25, micro=token % 2, sequence=token // 5, position=token
    )


def as_json(path: Path) -> dict:
    with np.load(path, allow_pickle=False) as archive:
        document = {name: archive[name].tolist() for name in archive.files}
    return document | {"header": json.loads(document["header"])}


def test_what_is_read_is_what_was_written(full_trace: RoutingTrace, tmp_path: Path) -> None:
    full_trace.write(tmp_path / "routing.npz")
    again = RoutingTrace.read(tmp_path / "routing.npz")
    assert again.header == full_trace.header
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(again, name), getattr(full_trace, name))
        assert getattr(again, name).dtype == getattr(full_trace, name).dtype


def test_equal_traces_are_equal_bytes_without_a_clock(full_trace: RoutingTrace, tmp_path: Path) -> None:
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    full_trace.write(first)
    RoutingTrace.read(first).write(second)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_writer_and_golden_sample_satisfy_the_schema(full_trace: RoutingTrace, tmp_path: Path) -> None:
    full_trace.write(tmp_path / "routing.npz")
    for path in (tmp_path / "routing.npz", GOLDEN):
        jsonschema.validate(as_json(path), SCHEMA)


def test_golden_sample_still_reads() -> None:
    golden = RoutingTrace.read(GOLDEN)
    assert golden.header == RoutingHeader(
        num_experts=8,
        num_layers=3,
        top_k=2,
        world_size=4,
        model="golden",
        hidden=16,
        element_bytes=4,
        moe_layers=(1, 3, 5),
        expert_parallel=4,
    )
    assert golden.num_tokens == 48
    assert (golden.expert_ids[5, 1] == -1).all()
    assert golden.position is not None
    assert golden.position.tolist() == list(range(6)) * 8


def test_a_failed_write_leaves_nothing_behind(full_trace: RoutingTrace, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"output: cannot be written .*; choose a writable path"):
        full_trace.write(tmp_path / "file" / "routing.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(ValueError, match="output"):
        full_trace.write(tmp_path / "folder.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.npz"]


def test_the_anchor_is_the_first_kept_choice() -> None:
    routing = dropping_trace(6, 3, 3, 200, seed=2, world_size=1, drop=0.5)
    expected = [
        [next((expert for expert in choices if expert >= 0), -1) for choices in layers]
        for layers in routing.expert_ids.tolist()
    ]
    assert routing.anchors().tolist() == expected
    assert (routing.anchors() == -1).any()


def test_traces_of_one_run_join_in_order(full_trace: RoutingTrace) -> None:
    joined = RoutingTrace.concatenate([full_trace, full_trace])
    for name in ARRAYS:
        part = getattr(full_trace, name)
        np.testing.assert_array_equal(getattr(joined, name), np.concatenate([part, part]))


def test_traces_that_do_not_belong_together_are_refused(full_trace: RoutingTrace) -> None:
    with pytest.raises(ValueError, match="none were given"):
        RoutingTrace.concatenate([])
    with pytest.raises(ValueError, match="different headers"):
        RoutingTrace.concatenate([full_trace, markov_trace(8, 4, 0.5, 10, seed=0)])
    with pytest.raises(ValueError, match="lack arrays"):
        RoutingTrace.concatenate([full_trace, replace(full_trace, weights=None)])


@each("shape", [(30, 4), (30, 4, 1), (30, 4, 2)])
def test_exflow_arrays_are_traces_of_one_rank(shape: tuple[int, ...], tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(8, size=shape)
    np.save(tmp_path / "exflow.npy", ids)
    routing = RoutingTrace.read(tmp_path / "exflow.npy", num_experts=8)
    np.testing.assert_array_equal(routing.expert_ids, ids.reshape(30, 4, -1))
    assert routing.header.world_size == 1
    assert not routing.source_rank.any()


@each("narrow", [np.uint8, np.int8, np.uint16, np.uint64])
def test_ids_are_kept_in_a_type_in_which_they_can_be_negated_and_multiplied(narrow: type, tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(100, size=(30, 4))
    np.save(tmp_path / "exflow.npy", ids.astype(narrow))
    routing = RoutingTrace.read(tmp_path / "exflow.npy", num_experts=100)
    assert routing.expert_ids.dtype in (np.int32, np.int64)
    np.testing.assert_array_equal(routing.expert_ids[:, :, 0], ids)


def _npy(header: str, data: bytes = b"") -> bytes:
    text = f"{header}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@each(
    "content",
    [
        _npy("{'descr': '<i4', 'fortran_order': False, 'shape': (99999999999999, 4)}", bytes(64)),
        _npy("{'descr': '<i4', 'fortran_order': False, 'shape': ((((4"),
        _npy("{'descr': '<i4', 'fortran_order': False, 'shape': (4, 4) \0"),
        _npy("{'descr': 3, 'fortran_order': False, 'shape': (4, 4)}", bytes(64)),
        b"",
        b"PK\x03\x04",
    ],
)
def test_a_header_that_nothing_fits_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "exflow.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"exflow\.npy: file: is not a plain array"):
        RoutingTrace.read(tmp_path / "exflow.npy", num_experts=8)
