"""Options that a format of `moe import` lacks or has no use for."""

from pathlib import Path

import pytest

from tests.each import each
from tests.moe.interchange.commands import refusal


@each(
    "arguments, told",
    [
        (["--from", "pickle"], "--from: unknown format (pickle); choose from exflow-csv, sglang"),
        (["--nodes", "1"], "--from: exflow-csv needs --num-experts; give it"),
        (["--from", "vllm"], "--from: vllm needs --nodes; give it"),
        (["--from", "esft", "--nodes", "2"], "--from: esft takes no --nodes (2); leave it out"),
        (
            ["--from", "vllm", "--nodes", "1", "--ranks-per-node", "2", "--dense-layers", "0"],
            "--from: vllm takes no --dense-layers (0)",
        ),
        (["--from", "esft", "--top-k", "0"], "--top-k: must be at least 1 (0)"),
        (["second", "--from", "vllm", "--nodes", "1", "--ranks-per-node", "2"], "--from: vllm is one file (2 are"),
    ],
)
def test_options_fit_the_format(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refusal(capsys, "import", "source", *arguments, "--out", tmp_path / "out.npz")


def test_a_trace_is_called_npz(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "expert_weights_1.txt").write_text("1\t0\t\t0.5\t0.4\n")
    out = tmp_path / "routing.npy"
    said = refusal(capsys, "import", tmp_path, "--from", "esft", "--top-k", 2, "--out", out)
    assert "name it .npz" in said
    assert not out.exists()
