"""Dumps of SGLang's recorder: counts become a packing, records of tokens a routing trace."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moe.placement.placement import Placement
from moe.routing_trace import RoutingTrace
from tests.each import each
from tests.moe.interchange.commands import printed, refusal

FORM = ("--from", "sglang-distribution")
GROUP = ("--nodes", 1, "--ranks-per-node", 4)


@each("suffix", ["json", "pt"])
def test_counts_become_the_placement_that_packs_them(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = np.random.default_rng(0).zipf(1.6, (5, 3, 8)).clip(max=1000)
    counts[:, 0] = 0  # a dense layer
    path = tmp_path / f"counts.{suffix}"
    if suffix == "pt":
        torch.save({"rank": 0, "logical_count": torch.tensor(counts), "average": None}, path)
    else:
        path.write_text(json.dumps({"logical_count": counts.tolist()}))
    out = tmp_path / "placement.json"
    said = printed(capsys, "import", path, *FORM, *GROUP, "--slots-per-rank", 3, "--out", out)
    assert "packed by counts alone" in said
    assert "left out layers without choices: 0" in said
    placement = Placement.read(out)
    assert (placement.num_layers, placement.slots_per_rank, placement.objective) == (2, 3, None)
    holders = placement.holders()
    for layer, loads in enumerate(counts.sum(axis=0)[1:]):
        share = loads / holders[layer].sum(axis=1)
        contiguous = loads.reshape(4, 2).sum(axis=1)
        assert (share @ holders[layer]).max() <= contiguous.max()


def test_no_trace_is_made_of_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "counts.json"
    path.write_text('{"logical_count": [[1, 2], [3, 4]]}')
    said = refusal(capsys, "import", path, *FORM, "--out", tmp_path / "routing.npz")
    assert "logical_count: has counts [2, 2], from which no routing trace can be made; give --nodes" in said


def records(passes: list[np.ndarray], rank: int, prefill: bool = False) -> list[dict[str, Any]]:
    """As the recorder keeps them: room for 8 choices, of which the model fills some."""
    kept = []
    for number, ids_LTK in enumerate(passes):
        layers, tokens, choices = ids_LTK.shape
        room = torch.full((layers, tokens, 8), -1, dtype=torch.int32)
        room[:, :, :choices] = torch.tensor(ids_LTK)
        kept.append(
            {
                **{"forward_pass_id": number, "rank": rank, "gatherer_key": "primary", "input_ids": [5] * tokens},
                **{"positions": list(range(tokens)), "forward_mode": 1, "topk_ids_of_layer": room, "misc_objects": []},
                "extend_seq_lens": [tokens - 1, 1] if prefill else None,
                "global_physical_count": torch.zeros(layers, 10),
            }
        )
    return kept


def test_tokens_of_all_ranks_become_a_trace_of_logical_experts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(1)
    physical_to_logical = np.stack([np.append(draw.permutation(8), [0, 1]) for _ in range(3)])
    dumps = []
    for rank in (0, 1):
        passes = [draw.random((3, tokens, 10)).argsort(axis=2)[:, :, :2] for tokens in (4, 2)]
        for ids in passes:
            ids[0] = -1  # a dense layer
        dumps.append(passes)
        torch.save(
            {"records": records(passes, rank), "last_physical_to_logical_map": torch.tensor(physical_to_logical)},
            tmp_path / f"{rank}.pt",
        )
    out = tmp_path / "routing.npz"
    said = printed(capsys, "import", tmp_path / "0.pt", tmp_path / "1.pt", *FORM, "--out", out)
    assert "12 tokens, 2 layers, 8 experts, 2 choices a token, 2 ranks; left out layers without choices: 0" in said
    trace = RoutingTrace.read(out)
    assert trace.step is not None
    assert trace.header.moe_layers == (1, 2)
    for rank, passes in enumerate(dumps):
        for number, ids_LTK in enumerate(passes):
            mine = (trace.source_rank == rank) & (trace.step == number)
            for layer in (1, 2):
                wanted = physical_to_logical[layer][ids_LTK[layer]]
                np.testing.assert_array_equal(trace.expert_ids[mine, layer - 1], wanted)


def test_requests_of_one_rank_are_dealt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = np.random.default_rng(2).random((1, 5, 4)).argsort(axis=2)[:, :, :2]
    torch.save({"records": records([ids], 3, prefill=True)}, tmp_path / "dump.pt")
    out = tmp_path / "routing.npz"
    printed(capsys, "import", tmp_path / "dump.pt", *FORM, "--ranks", 2, "--num-experts", 4, "--out", out)
    trace = RoutingTrace.read(out)
    np.testing.assert_array_equal(trace.source_rank, [0, 0, 0, 0, 1])
    assert trace.header.world_size == 2
    torch.save({"records": records([ids], 3)}, tmp_path / "dump.pt")
    printed(capsys, "import", tmp_path / "dump.pt", *FORM, "--ranks", 2, "--num-experts", 4, "--out", out)
    np.testing.assert_array_equal(RoutingTrace.read(out).source_rank, [0, 1, 0, 1, 0])
    said = refusal(capsys, "import", tmp_path / "dump.pt", *FORM, "--slots-per-rank", 3, "--out", out)
    assert "--slots-per-rank: is for counts, and the file has tokens; leave it out" in said


def sound() -> dict[str, Any]:
    return {
        "records": records([np.array([[[0, 1], [2, 3]]])], 0),
        "last_physical_to_logical_map": torch.arange(4).reshape(1, 4),
    }


def without(document: dict[str, Any], name: str) -> dict[str, Any]:
    del document["records"][0][name]
    return document


@each(
    "document, told",
    [
        ([1], "document: is not a mapping"),
        ({}, "records: holds neither logical_count nor records ()"),
        ({"records": []}, "records: holds neither"),
        ({"records": [3]}, "records.0: is not a mapping of names to values (3)"),
        (without(sound(), "topk_ids_of_layer"), "records.0: has no topk_ids_of_layer; dump it in mode per_token"),
        (without(sound(), "rank"), "records.0.rank: is not a whole number of 0 or more (None)"),
        (without(sound(), "positions"), "records.0.positions: is not a rectangle"),
        ({**sound(), "last_physical_to_logical_map": torch.zeros(2, 4).int()}, "has 1 layers where last_physical"),
        (
            {**sound(), "last_physical_to_logical_map": torch.zeros(1, 3).int()},
            "3 is not one of the 3 physical experts",
        ),
        ({**sound(), "last_physical_to_logical_map": torch.zeros(1, 4)}, "last_physical_to_logical_map: is not a rect"),
        ({"logical_count": [[1, -1]]}, "logical_count: holds -1 to 1, which cannot be counts"),
        ({"logical_count": [1, 2]}, "logical_count: is not a rectangle of whole numbers [..., layers, experts]"),
        ({"logical_count": torch.zeros(2, 4).int()}, "logical_count: has counts [2, 4]"),
    ],
)
def test_a_malformed_dump_is_refused_in_one_line(
    document: Any, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(document, tmp_path / "dump.pt")
    assert told in refusal(capsys, "import", tmp_path / "dump.pt", *FORM, "--out", tmp_path / "out.npz")


class Pickled:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("planted"),)


def test_a_dump_that_would_run_code_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"records": Pickled()}, tmp_path / "dump.pt")
    said = refusal(capsys, "import", tmp_path / "dump.pt", *FORM, "--out", tmp_path / "out.npz")
    assert "is not a complete file of tensors and plain values (UnpicklingError)" in said
    assert not (tmp_path / "planted").exists()


def test_counts_of_nothing_and_slots_that_do_not_suffice_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "counts.json"
    path.write_text('{"logical_count": [[0, 0, 0, 0]]}')
    out = ("--out", tmp_path / "out.json")
    assert "counts no choice at all" in refusal(capsys, "import", path, *FORM, *GROUP, *out)
    path.write_text('{"logical_count": [[1, 0, 2, 0]]}')
    assert "--slots-per-rank: 9 are not between 1 and 4" in refusal(
        capsys, "import", path, *FORM, *GROUP, "--slots-per-rank", 9, *out
    )
    assert "--nodes: is needed together with" in refusal(capsys, "import", path, *FORM, "--nodes", 1, *out)
