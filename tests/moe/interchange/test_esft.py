"""Scores of ESFT, written by the test from the published format and read back."""

from pathlib import Path

import numpy as np
import pytest

from moe.interchange.esft import read_scores
from moe.routing_trace import RoutingTrace
from tests.each import each
from tests.moe.interchange.commands import printed, refusal

REAL = Path("../shared/data/esft/law.npz")


def write_scores(
    folder: Path, ids: np.ndarray, weights: np.ndarray, sequence: np.ndarray, first_layer: int = 1
) -> None:
    """One file a layer and one line a sequence, ids and weights of a token in any one order."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(7)
    shuffle = draw.permuted(np.tile(np.arange(ids.shape[2]), (len(ids), 1)), axis=1)
    for layer in range(ids.shape[1]):
        lines = []
        for number in range(sequence.max() + 1):
            mine = sequence == number
            shuffled = [np.take_along_axis(one[mine, layer], shuffle[mine], axis=1) for one in (ids, weights)]
            lines.append("\t\t".join("\t".join(map(str, one.ravel().tolist())) for one in shuffled))
        (folder / f"expert_weights_{first_layer + layer}.txt").write_text("\n".join(lines) + "\n")


def drawn(tokens: int, layers: int, experts: int, top_k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    ids = draw.random((tokens, layers, experts)).argsort(axis=2)[:, :, :top_k]
    return ids, -np.sort(-draw.random((tokens, layers, top_k)), axis=2)


def test_scores_come_back_with_the_strongest_choice_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids, weights = drawn(30, 12, 8, 3, seed=0)
    sequence = np.repeat([0, 1, 2, 3, 4], [7, 1, 10, 4, 8])
    write_scores(tmp_path / "law", ids, weights, sequence)
    out = tmp_path / "routing.npz"
    options = ("--from", "esft", "--top-k", 3, "--ranks", 2, "--out", out)
    assert "30 tokens, 12 layers, 8 experts, 3 choices a token, 2 ranks; 5 sequences" in printed(
        capsys, "import", tmp_path / "law", *options
    )
    trace = RoutingTrace.read(out)
    assert trace.weights is not None
    assert trace.position is not None
    np.testing.assert_array_equal(trace.expert_ids, ids)
    np.testing.assert_allclose(trace.weights, weights, rtol=1e-6)
    np.testing.assert_array_equal(trace.sequence, sequence)
    np.testing.assert_array_equal(trace.source_rank, sequence % 2)
    np.testing.assert_array_equal(trace.position[:9], [0, 1, 2, 3, 4, 5, 6, 0, 0])
    assert trace.header.moe_layers == tuple(range(1, 13))
    assert trace.header.dispatch is None


def test_several_data_sets_follow_each_other(tmp_path: Path) -> None:
    parts = [drawn(9, 2, 4, 2, seed=seed) for seed in (1, 2)]
    for name, part in zip(("intent", "law"), parts, strict=True):
        write_scores(tmp_path / "scores" / name, *part, np.repeat([0, 1], [4, 5]))
    trace = read_scores([tmp_path / "scores"], top_k=2, ranks=3).result
    assert isinstance(trace, RoutingTrace)
    np.testing.assert_array_equal(trace.expert_ids, np.concatenate([ids for ids, _ in parts]))
    np.testing.assert_array_equal(trace.sequence, np.repeat([0, 1, 2, 3], [4, 5, 4, 5]))
    np.testing.assert_array_equal(trace.source_rank, np.repeat([0, 1, 2, 0], [4, 5, 4, 5]))
    apart = read_scores([tmp_path / "scores" / name for name in ("intent", "law")], top_k=2, ranks=3).result
    assert isinstance(apart, RoutingTrace)
    np.testing.assert_array_equal(apart.expert_ids, trace.expert_ids)


@pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} with published scores is absent")
def test_real_routing_survives(tmp_path: Path) -> None:
    real = RoutingTrace.read(REAL)
    assert real.sequence is not None
    ids, sequence = real.expert_ids[real.sequence < 6], real.sequence[real.sequence < 6]
    weights = np.broadcast_to(np.array([0.3, 0.2, 0.1, 0.05, 0.02, 0.01]), ids.shape)
    write_scores(tmp_path / "law", ids, weights, sequence)
    trace = read_scores([tmp_path / "law"], num_experts=64, ranks=8).result
    assert isinstance(trace, RoutingTrace)
    for name in ("expert_ids", "source_rank", "sequence", "position"):
        np.testing.assert_array_equal(getattr(trace, name), getattr(real, name)[real.sequence < 6], err_msg=name)


@each(
    "layer, text, told",
    [
        (1, "1\t2\t0.5\t0.5\n", "line 1: has no two tabs"),
        (1, "1\tx\t\t0.5\t0.5\n", "line 1: the ids are not whole numbers"),
        (1, "1\t2\t\t0.5\t0.5\n\n1\t2\t3\t\t1\t1\t1\n", "line 3: 3 ids are not 2 a token; give --top-k"),
        (1, "1\t2\t\t0.5\n", "line 1: has 2 ids and 1 weights"),
        (1, "1\t2\t\t0.5\tnan\n", "line 1: a weight is NaN"),
        (1, "1\t2\t\t0.5\ty\n", "line 1: the weights are not numbers"),
        (1, "", "contains no sequences"),
        (2, "1\t2\t\t0.5\t0.5\n1\t2\t\t0.5\t0.5\n", "has 2 sequences where expert_weights_1.txt has 1"),
        (2, "1\t2\t0\t3\t\t1\t1\t1\t1\n", "sequence 0: has 2 tokens where expert_weights_1.txt has 1"),
        (2, "999999999\t2\t\t1\t1\n", "the largest is 999999999, which is not an expert"),
    ],
)
def test_malformed_scores_are_refused_in_one_line(
    layer: int, text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        (tmp_path / f"expert_weights_{number}.txt").write_text("1\t2\t\t0.5\t0.4\n")
    (tmp_path / f"expert_weights_{layer}.txt").write_text(text)
    assert told in refusal(capsys, "import", tmp_path, "--from", "esft", "--top-k", 2, "--out", tmp_path / "out.npz")


def test_folders_that_do_not_belong_together_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    out = ("--from", "esft", "--top-k", 2, "--out", tmp_path / "out.npz")
    assert "contains no expert_weights_LAYER.txt" in refusal(capsys, "import", tmp_path / "empty", *out)
    for name, layer in (("a", 1), ("b", 2)):
        write_scores(tmp_path / name, *drawn(3, 1, 4, 2, seed=0), np.zeros(3, int), first_layer=layer)
    assert "layer" in refusal(capsys, "import", tmp_path / "a", tmp_path / "b", *out)
