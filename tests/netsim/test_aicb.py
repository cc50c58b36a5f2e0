"""Workloads of AICB and SimAI, against a count by hand, brute force and closed forms."""

from collections import Counter
from pathlib import Path

import numpy as np

from netsim.workload.aicb import groups_of
from tests.each import each
from tests.netsim.foreign import FILES, INSIDE, SERVICE, laid_out, opened, run

GOLDEN = FILES / "aicb.txt"
KIND = "HYBRID_TRANSFORMER_FWD_IN_BCKWD"
HEADER = f"{KIND} model_parallel_NPU_group: 2 ep: 1 pp: 1 vpp: 2 ga: 1 all_gpus: 4 checkpoints: 0"
NONE = "NONE 0"
NS = 1000
ROUND = SERVICE + INSIDE
"""Of a ring of two ranks that exchange 4,000 B."""


def layer(forward: str, input_gradient: str, weight_gradient: str, process_ns: int = 0) -> str:
    """A line of a file; of each phase its time, collective and size."""
    return f"layer -1 {forward} {input_gradient} {weight_gradient} {process_ns}"


def written(folder: Path, *layers: str, header: str = HEADER) -> Path:
    path = folder / "x.txt"
    path.write_text("\n".join((header, str(len(layers)), *layers, "")), encoding="utf-8")
    return path


def completion_ps(path: Path, compute_scale: float = 1.0) -> int:
    return run(laid_out(opened("aicb", path, compute_scale=compute_scale), 4), 4).completion_ps


def sent_by_hand(path: Path) -> Counter[str]:
    """Bytes that all ranks send by operation, from a plain reading of the file and the textbook's volumes."""
    header, _, *lines = path.read_text(encoding="utf-8").splitlines()
    words = header.split()
    tp, ep, ranks = (int(words[words.index(key) + 1]) for key in ("model_parallel_NPU_group:", "ep:", "all_gpus:"))
    sent: Counter[str] = Counter()
    for line in lines:
        cells = line.split("\t")
        for at, usual in ((3, tp), (6, tp), (9, ranks // tp)):
            name, size = cells[at], int(cells[at + 1])
            members = ranks // tp // ep if name.endswith("_DP_EP") else ep if name.endswith("_EP") else usual
            op = name.split("_")[0]
            volume = {"NONE": 0, "ALLREDUCE": 2 * (members - 1) * size}.get(op, (members - 1) * size)
            sent[op] += ranks // members * volume
    return sent


def test_the_golden_file_moves_what_a_count_by_hand_says():
    made = laid_out(opened("aicb", GOLDEN), 8)
    columns = made.tasks.columns()
    moved: Counter[str] = Counter()
    for span, (first, end) in zip(made.spans, made.collectives, strict=True):
        assert columns.bytes[first:end].sum() == span.bytes
        moved[span.op.replace("_", "").upper()] += span.bytes
    assert moved == {op: size for op, size in sent_by_hand(GOLDEN).items() if size}
    assert columns.bytes.sum() == sum(moved.values())


@each("tp, ep, pp, others", [(2, 2, 1, 2), (4, 3, 2, 2), (1, 4, 3, 1), (8, 1, 1, 2)])
def test_groups_hold_the_ranks_that_differ_in_their_coordinate_alone(tp, ep, pp, others):
    ranks = tp * ep * pp * others
    place = {r: (r % tp, r // tp % ep, r // tp // ep % others, r // tp // ep // others) for r in range(ranks)}
    for kind, free in {"tp": {0}, "ep": {1}, "dp_ep": {2}, "dp": {1, 2}}.items():
        alike = {
            tuple(s for s in range(ranks) if all(place[s][n] == place[r][n] for n in range(4) if n not in free))
            for r in range(ranks)
        }
        assert {tuple(group) for group in groups_of(tp, ep, pp, ranks)[kind]} == alike


def test_forwards_and_for_input_gradients_all_wait_for_the_collective(tmp_path):
    """An all-reduce of two ranks has two rounds, the others one."""
    first = layer("700 ALLREDUCE 8000", "300 REDUCESCATTER 8000", f"50 {NONE}", process_ns=20)
    second = layer("900 ALLGATHER 8000", "100 ALLTOALL 8000", f"40 {NONE}", process_ns=30)
    compute = 700 + 20 + 900 + 30 + 100 + 30 + 40 + 300 + 20 + 50
    assert completion_ps(written(tmp_path, first, second)) == 5 * ROUND + compute * NS
    assert completion_ps(written(tmp_path, first, second), compute_scale=0) == 5 * ROUND + (20 + 30 + 30 + 20) * NS
    scaled = 5 * ROUND + int(2.5 * (compute - 100) + 100) * NS
    assert completion_ps(written(tmp_path, first, second), compute_scale=2.5) == scaled


@each("computing", [9000, 500])
def test_weight_gradients_go_on_beside_the_layers_before_and_follow_each_other(tmp_path, computing):
    """The collective of the last layer is hidden by 9 us of computing, and delays the one before if there are 0.5."""
    first = layer(f"10 {NONE}", f"{computing} {NONE}", "0 REDUCESCATTER 8000", process_ns=70)
    second = layer(f"20 {NONE}", f"30 {NONE}", "40 ALLREDUCE 8000", process_ns=90)
    begun = 100 * NS
    free = begun + 2 * ROUND
    assert completion_ps(written(tmp_path, first, second)) == max(begun + computing * NS, free) + ROUND + 70 * NS


def test_only_later_weight_gradients_wait_for_those_of_a_layer():
    """By brute force over all that a task of the golden file waits for, directly or not."""
    made = laid_out(opened("aicb", GOLDEN), 8)
    before: list[set[int]] = []
    for number, task in enumerate(made.tasks):
        before.append({number}.union(*(before[earlier] for earlier in task.after)))
    ends: list[tuple[int, int]] = []
    for span in made.spans:
        of_weights = (span.group or "").startswith("dp")
        for come in span.come:
            earlier = {end for rank, end in ends if not of_weights or rank == made.tasks[come].src}
            assert before[come] & earlier == (earlier if of_weights else set())
        ends += [(made.tasks[end].src, end) for end in span.over] if of_weights else []
    assert len(ends) == 4 * 8


def test_ranks_are_those_of_the_header_and_all_without(tmp_path):
    silent = HEADER.replace(" all_gpus: 4", "")
    line = layer(f"0 {NONE}", f"0 {NONE}", "0 ALLREDUCE 8000")
    for header, ranks, notices in ((HEADER, 4, 1), (silent, 8, 0)):
        workload = opened("aicb", written(tmp_path, line, header=header))
        assert (workload.size(8), len(workload.notices)) == (ranks, notices)
        assert {span.ranks for span in laid_out(workload, 8).spans} == {ranks // 2}


def test_says_what_it_leaves_out(tmp_path):
    header = HEADER.replace("pp: 1", "pp: 2").replace("NPU_group: 2", "NPU_group: 1").replace("ep: 1", "ep: 2")
    line = layer("0 ALLREDUCE 8000", "0 ALLTOALL_EP 8000", "0 ALLREDUCE_DP_EP 8000")
    workload = opened("aicb", written(tmp_path, line, line, header=header))
    assert [span.group for span in laid_out(workload, 4).spans] == ["ep_0", "ep_1"] * 2
    stages, *alone = (notice.removeprefix(f"{tmp_path / 'x.txt'}: ") for notice in workload.notices)
    assert stages.startswith("2 stages, each with all layers")
    assert alone == [f"2 collectives in groups {kind} of one rank move nothing" for kind in ("tp", "dp_ep")]


def test_a_broadcast_goes_from_the_first_rank_of_each_group(tmp_path):
    made = laid_out(opened("aicb", written(tmp_path, layer("0 BROADCAST 8000", f"0 {NONE}", f"0 {NONE}"))), 4)
    columns = made.tasks.columns()
    moves = np.flatnonzero(columns.bytes)
    assert columns.src[moves].tolist() == [0, 2]
    assert columns.dst[moves].tolist() == [1, 3]
