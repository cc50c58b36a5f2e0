"""What is done with a trained network runs where its process groups communicate, and gives what the CPU gives."""

import json
from pathlib import Path

import pytest

from tests.forked import command
from tests.pretend.runs import Case
from tests.ranks import run_ranks
from trainer.data.shard.index import INDEX

PROGRAM = Path(__file__).parent / "program.py"
NETWORKS = ("mlp", "gpt", "autoencoder")


def train_all(rank: int, world_size: int, folder: Path) -> None:
    from tests.trainer.parallel_runs import train

    for network in NETWORKS:
        train(rank, world_size, Case(network).config(folder / network))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run_ranks(train_all, 1, folder)
    return folder


def on_both(folder: Path, verb: str, run: Path, *options: str) -> tuple[Path, Path]:
    """What a verb writes on the device and on the CPU."""
    outs = folder / "device", folder / "cpu"
    for out, program in zip(outs, (PROGRAM, None), strict=True):
        done = command(verb, "--debug", str(run), *options, "--out", str(out), program=program)
        assert done.returncode == 0, done.stderr
    return outs


@pytest.mark.slow
def test_evaluate(runs: Path, tmp_path: Path) -> None:
    options = ("--num", "20", "--evaluations", "2", "--likelihood", "2")
    found, expected = (json.loads(out.read_text()) for out in on_both(tmp_path, "evaluate", runs / "mlp", *options))
    assert found["bits_per_dimension"] == pytest.approx(expected["bits_per_dimension"], rel=1e-4)
    assert found["paths"] == pytest.approx(expected["paths"], rel=1e-4)
    for one, other in zip(found["results"], expected["results"], strict=True):
        assert one["figures"] == pytest.approx(other["figures"], rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_generate(runs: Path, tmp_path: Path) -> None:
    found, expected = on_both(tmp_path, "generate", runs / "gpt", "--num-bytes", "6", "--prompt", "def ")
    assert len(found.read_bytes()) == len(expected.read_bytes()) == 10


@pytest.mark.slow
def test_encode(runs: Path, tmp_path: Path) -> None:
    found, expected = on_both(tmp_path, "encode", runs / "autoencoder")
    ours, theirs = (json.loads((out / INDEX).read_text()) for out in (found, expected))
    for name in ("shift", "scale"):
        assert ours["latents"][name] == pytest.approx(theirs["latents"][name], rel=1e-4, abs=1e-5)
