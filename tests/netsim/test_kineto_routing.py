"""Exchanges with experts by a routing trace: against all choices, a walk of every token, and what is refused."""

import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from moe.routing_trace import RoutingHeader, RoutingTrace
from netsim.__main__ import main
from netsim.workload.kineto.experts import Experts
from netsim.workload.kineto.routing import read_routing
from netsim.workload.records import read_trace
from tests.each import each
from tests.netsim.foreign import FILES
from tests.netsim.kineto_profiles import expert_profile

GROUP = "expert", tuple(range(16))
WIDTH = {"dispatch": 256 + 4 * 2, "combine": 2 * 256}


def measured(path: Path, ids: np.ndarray, ranks: np.ndarray, world_size: int, tokens: int) -> Experts:
    """Experts by a trace of ids among 32, as the trainer writes it."""
    _, layers, top_k = ids.shape
    header = RoutingHeader(num_experts=32, num_layers=layers, top_k=top_k, world_size=world_size, model="x")
    RoutingTrace(ids, ranks, header).write(path)
    routing = read_routing(path, 32, top_k)
    return Experts(tokens=tokens, hidden=256, experts=32, top_k=top_k, routing=routing)


@each("world_size, family", [(1, "internode"), (3, "internode"), (1, "intranode")])
def test_choices_that_all_occur_as_often_are_experts_drawn_alike(world_size, family, tmp_path):
    """Where the ranks of the trace are not those of the group, each has the tokens of all."""
    ids = np.array(list(combinations(range(32), 2)), dtype=np.int32)[:, None]
    ranks = np.arange(len(ids)) % world_size
    by_trace = measured(tmp_path / "routing.npz", ids, ranks, world_size, len(ids))
    drawn = by_trace.model_copy(update={"routing": None})
    for rank in (0, 11):
        for kind in WIDTH:
            assert by_trace.operation(kind, family, GROUP, rank) == drawn.operation(kind, family, GROUP, rank)


def test_each_rank_sends_what_its_own_tokens_choose(tmp_path):
    """Of 32 ranks two are at each place of a group of 16, in two nodes of 8; some choices are dropped."""
    draw = np.random.default_rng(0)
    ids = draw.zipf(1.3, size=(320, 2, 3)) % 33 - 1
    ranks = np.arange(320) % 32
    experts = measured(tmp_path / "routing.npz", ids, ranks, 32, 20 * 2)
    moved: Counter[tuple[int, int]] = Counter()
    for token, rank in zip(ids, (ranks % 16).tolist(), strict=True):
        for layer in token:
            homes = {int(expert) // 2 for expert in layer if expert >= 0}
            for node in {home // 8 for home in homes}:
                relay = node * 8 + rank % 8
                moved[rank, relay] += 1
                for home in homes:
                    moved[relay, home] += home // 8 == node
    for rank in range(16):
        sent = [0 if other == rank else moved[rank, other] for other in range(16)]
        received = [0 if other == rank else moved[other, rank] for other in range(16)]
        for kind, (to, come) in {"dispatch": (sent, received), "combine": (received, sent)}.items():
            operation = experts.operation(kind, "internode", GROUP, rank)
            assert operation.in_splits == tuple(WIDTH[kind] * count for count in to)
            assert operation.out_splits == tuple(WIDTH[kind] * count for count in come)


SIZES = {"--tokens": "64", "--hidden": "128", "--experts": "8", "--top-k": "2"}


def imported(folder: Path, **options: str) -> int:
    """The command on a profile of four ranks, with options in place of the usual ones."""
    expert_profile(4).write(folder / "rank0.json")
    changed = {**SIZES, **{f"--{name.replace('_', '-')}": value for name, value in options.items()}}
    arguments = [word for option, value in changed.items() if value for word in (option, value)]
    return main(["import", "kineto", str(folder / "rank0.json"), "--out", str(folder / "out.jsonl"), *arguments])


def test_a_trainers_trace_sizes_the_exchanges_of_a_profile(tmp_path):
    assert imported(tmp_path, routing=str(FILES / "routing.npz")) == 0
    programs = [[record for _, record in program] for program in read_trace(tmp_path / "out.jsonl").programs]
    with np.load(FILES / "routing.npz") as golden:
        ids, ranks = golden["expert_ids"], golden["source_rank"]
    for rank, program in enumerate(programs):
        dispatch, combine = (record for record in program if record.op == "all_to_all")
        own = ids[ranks == rank].reshape(-1, 2)
        for other in {*range(4)} - {rank}:
            share = (own // 2 == other).any(axis=1).mean()
            assert (dispatch.in_splits or ())[other] == (128 + 4) * round(64 * share)
            assert (combine.out_splits or ())[other] == 2 * 128 * round(64 * share)


def arrays(**changes: Any) -> dict[str, Any]:
    """The golden trace's, some of them others; None: missing."""
    with np.load(FILES / "routing.npz") as golden:
        stored = {name: golden[name] for name in ("header", "expert_ids", "source_rank")}
    return {name: value for name, value in (stored | changes).items() if value is not None}


def header(**changes: Any) -> np.ndarray:
    return np.array(json.dumps(json.loads(str(arrays()["header"])) | changes))


IDS = arrays()["expert_ids"]
REFUSED: dict[str, tuple[dict[str, Any] | bytes, dict[str, str], str]] = {
    "experts": (arrays(), {"experts": "16"}, "header.num_experts: is 8, and --experts is 16"),
    "top k": (arrays(), {"top_k": "1"}, "header.top_k: is 2, and --top-k is 1"),
    "nodes": (arrays(), {"nodes": "1"}, "--nodes: is also in the choices of --routing"),
    "no sizes": (arrays(), {"tokens": ""}, "--tokens: is missing"),
    "not an archive": (b'{"experts": [1, 2]}', {}, "file: is not a complete .npz archive"),
    "no ids": (arrays(expert_ids=None), {}, "expert_ids: is missing"),
    "header": (arrays(header=np.array("{")), {}, "header: is not JSON"),
    "no header": (arrays(header=np.array("[]")), {}, "header"),
    "format": (arrays(header=header(format="flowfabric.routing/2")), {}, "header.format: "),
    "no world": (arrays(header=header(world_size=0)), {}, "header.world_size: "),
    "NaN": (
        arrays(expert_ids=IDS * np.nan),
        {},
        "expert_ids: is float64 (48, 3, 2), not whole numbers [tokens, layers",
    ),
    "objects": (arrays(expert_ids=IDS.astype(object)), {}, "expert_ids: is pickled, ragged or damaged"),
    "negative": (arrays(expert_ids=IDS - 2), {}, "expert_ids: is not in -1 to 7 throughout (-3 to 5)"),
    "beyond": (arrays(expert_ids=IDS + 1), {}, "expert_ids: is not in -1 to 7 throughout (0 to 8)"),
    "rank beyond": (arrays(source_rank=np.full(48, 4)), {}, "source_rank: is not in 0 to 3 throughout (4 to 4)"),
    "flat": (
        arrays(expert_ids=IDS[:, 0]),
        {},
        "expert_ids: is int32 (48, 2), not whole numbers [tokens, layers, top_k]",
    ),
    "one choice": (
        arrays(expert_ids=IDS[:, :, :1]),
        {},
        "expert_ids: has shape (48, 3, 1), for 48 tokens with 2 experts",
    ),
    "few ranks": (arrays(source_rank=np.zeros(9, int)), {}, "expert_ids: has shape (48, 3, 2), for 9 tokens"),
    "idle rank": (
        arrays(source_rank=np.arange(48) % 3),
        {},
        "source_rank: has no tokens of place 3 in groups of 4 ranks",
    ),
}


@each("name", REFUSED)
def test_says_in_one_line_what_is_wrong_with_a_routing(name, tmp_path, capsys):
    content, options, expected = REFUSED[name]
    path = tmp_path / "routing.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    assert imported(tmp_path, routing=str(path), **options) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert expected in said
    assert not (tmp_path / "out.jsonl").exists()
