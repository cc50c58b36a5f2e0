"""Router traces of Megatron-Core, written by the test from the documented records."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe.routing_trace import RoutingTrace
from tests.each import each
from tests.moe.interchange.commands import printed, refusal

LAYERS = (1, 3, 4)


def record(step: int, layer: int, rank: int, ids: np.ndarray, **more: Any) -> dict[str, Any]:
    return {
        **{"step": step, "stage": "pre_dispatch", "block": "decoder", "layer": layer, "rank": rank},
        **{"num_tokens": len(ids), "topk": ids.shape[1], "top_indices": ids.tolist()},
        **more,
    }


def write_traces(folder: Path, choices: dict[tuple[int, int, int], np.ndarray]) -> list[Path]:
    """One file a rank; `choices` are [tokens, layers, k] by step, micro batch and rank, layer by layer in a file."""
    paths = []
    for rank in sorted({rank for _, _, rank in choices}):
        lines = []
        for step in sorted({step for step, _, _ in choices}):
            for micro in sorted({micro for at, micro, _ in choices if at == step}):
                ids = choices[step, micro, rank]
                lines += [record(step, layer, rank, ids[:, place]) for place, layer in enumerate(LAYERS)]
                lines.append(record(step, 0, rank, ids[:, 0], block="mtp", mtp_idx=0))
        paths.append(folder / f"router_trace_rank{rank}.jsonl")
        paths[-1].write_text("".join(json.dumps(line) + "\n" for line in lines))
    return paths


def drawn(seed: int) -> dict[tuple[int, int, int], np.ndarray]:
    draw = np.random.default_rng(seed)
    sizes = {(step, micro, rank): 3 + step + 2 * micro + rank for step in (0, 1) for micro in (0, 1) for rank in (0, 1)}
    return {key: draw.random((size, 3, 8)).argsort(axis=2)[:, :, :2] for key, size in sizes.items()}


def test_tokens_are_followed_through_the_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choices = drawn(0)
    paths = write_traces(tmp_path, choices)
    out = tmp_path / "routing.npz"
    said = printed(capsys, "import", *reversed(paths), "--from", "megatron-router-trace", "--out", out)
    assert "left out 8 records of multi-token prediction" in said
    trace = RoutingTrace.read(out)
    assert trace.step is not None
    assert trace.micro is not None
    assert trace.header.moe_layers == LAYERS
    assert (trace.header.world_size, trace.num_tokens) == (2, sum(map(len, choices.values())))
    for (step, micro, rank), ids in choices.items():
        mine = (trace.step == step) & (trace.micro == micro) & (trace.source_rank == rank)
        np.testing.assert_array_equal(trace.expert_ids[mine], ids)


def test_choices_in_the_order_of_ids_are_said_to_have_no_strongest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_traces(tmp_path, {key: np.sort(ids, axis=2) for key, ids in drawn(1).items()})
    options = ("--from", "megatron-router-trace", "--num-experts", 16, "--out", tmp_path / "routing.npz")
    said = printed(capsys, "import", *paths, *options)
    assert "the strongest is unknown" in said
    assert "16 experts" in said


def test_stages_other_than_before_dispatch_are_left_out_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = np.array([[2, 1], [0, 3]])
    path = tmp_path / "trace.jsonl"
    lines = [record(0, 0, 0, ids), record(0, 0, 0, ids, stage="post_dispatch")]
    path.write_text("\n\n".join(json.dumps(line) for line in lines))
    options = ("--from", "megatron-router-trace", "--out", tmp_path / "routing.npz")
    said = printed(capsys, "import", path, *options)
    assert "2 tokens, 1 layers" in said
    assert "left out 1 records of stage post_dispatch" in said
    path.write_text(json.dumps(lines[1]))
    assert "contains no record of stage pre_dispatch (1 records of stage post_dispatch)" in refusal(
        capsys, "import", path, *options
    )


@each(
    "change, told",
    [
        ({"num_tokens": 3}, "line 1: top_indices: is (2, 2) where num_tokens and topk are (3, 2)"),
        ({"top_indices": [[1], [2, 3]]}, "line 1: top_indices: is not a rectangle"),
        ({"top_indices": [[1, -1], [2, 3]]}, "holds -1 to 3, which are not numbers of experts"),
        ({"rank": -1}, "line 1: rank: is not a whole number of 0 or more (-1)"),
        ({"step": True}, "line 1: step: is not a whole number"),
        ({"layer": None}, "line 1: layer: is not a whole number of 0 or more (None)"),
        ({"top_indices": [[1], [2]], "topk": 1}, "step 0, layer 1: topk is not 1"),
        ({"layer": 2}, "step 1: layer 0 is not in every step of every rank"),
        ({"num_tokens": 1, "top_indices": [[1, 2]]}, "step 0, layer 1: has tokens [2] where layer 0 has [1]"),
    ],
)
def test_a_malformed_trace_is_refused_in_one_line(
    change: dict[str, Any], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = np.array([[2, 1], [0, 3]])
    lines = [{**record(0, 0, 0, ids), **change}, record(0, 1, 0, ids), record(1, 0, 0, ids), record(1, 1, 0, ids)]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "out.npz"
    assert told in refusal(capsys, "import", path, "--from", "megatron-router-trace", "--out", out)
    assert not out.exists()


def test_one_rank_in_two_files_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_traces(tmp_path, drawn(2))
    (tmp_path / "copy.jsonl").write_text(paths[0].read_text())
    options = ("--from", "megatron-router-trace", "--out", tmp_path / "out.npz")
    assert "rank: 0 is in" in refusal(capsys, "import", paths[0], tmp_path / "copy.jsonl", *options)
