"""A language model that two ranks decode, recorded under two placements, and what the page says of it."""

import json
from pathlib import Path

import numpy as np
import pytest

from moe.placement.placement import Placement
from tests.forked import command
from tests.trainer.commands import GPT, refused
from trainer.__main__ import main

pytestmark = pytest.mark.usefixtures("blank_pictures")

SETTINGS = (
    "model={kind: gpt, hidden: 32, num_layers: 3, num_heads: 4, num_kv_heads: 1}",
    "moe.expert_hidden=32",
    "moe.dispatch=coherent",
    "data={context: 32, held_out: 2000, max_bytes: 20000}",
    "optim={steps: 3, global_batch: 8, micro_batch: 2}",
    "checkpoint.every=3",
    "evaluate.every=null",
    "sample.every=null",
    "trace.steps=[]",
)


@pytest.fixture(scope="module")
def decoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with run, and decoding/ of it: 200 texts, so that a rank has more rows than fit messages of one size."""
    folder = tmp_path_factory.mktemp("decoded")
    ran(command("train", GPT, *SETTINGS, f"run.dir={folder / 'run'}", ranks=2))
    (folder / "prompts.txt").write_text("".join(f"def f{number}(\n" for number in range(200)))
    draw = np.random.default_rng(0)
    layers = tuple(tuple(map(tuple, draw.permutation(8).reshape(2, 4).tolist())) for _ in range(3))
    placed = Placement.contiguous(3, 8, 2, 1, dispatch="coherent").model_copy(update={"rank_experts": layers})
    placed.write(folder / "placement.json")
    for name, more in (("contiguous", ()), ("placed", ("--placement", str(folder / "placement.json")))):
        record = ("--record", str(folder / "decoding" / name), "--out", str(folder / f"{name}.txt"))
        options = ("--prompts", str(folder / "prompts.txt"), "--num-bytes", "4", *record, *more)
        ran(command("generate", str(folder / "run"), *options, ranks=2))
    return folder


def ran(result) -> None:
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_placement_changes_where_tokens_go_and_not_what_is_written(decoded: Path) -> None:
    texts = [(decoded / f"{name}.txt").read_bytes() for name in ("contiguous", "placed")]
    assert texts[0] == texts[1]
    assert texts[0].count(b"-" * 80) == 199
    traces = [(decoded / "decoding" / name / "collectives.jsonl").read_text() for name in ("contiguous", "placed")]
    assert traces[0] != traces[1]
    assert Placement.read(decoded / "decoding" / "placed" / "placement.json").rank_experts == (
        Placement.read(decoded / "placement.json").rank_experts
    )


def test_the_page_shows_the_recorded_rows_and_bytes(decoded: Path, tmp_path: Path) -> None:
    """Rows that leave are counted here from the lines of the trace: off the diagonal over all, own blocks included."""
    shares = []
    for name in ("contiguous", "placed"):
        lines = (decoded / "decoding" / name / "collectives.jsonl").read_text().splitlines()[1:]
        records = [record for record in map(json.loads, lines) if record["op"] == "all_to_all"]
        stays = sum(record["in_splits"][record["rank"]] for record in records)
        shares.append(1 - stays / sum(record["bytes_in"] for record in records))
    assert shares[0] != shares[1]
    out = tmp_path / "index.html"
    assert main(["report", str(decoded / "run"), "--decoding", str(decoded / "decoding"), "--out", str(out)]) == 0
    page = out.read_text()
    assert f"<td>rows that leave their rank</td><td>{shares[0]:.1%}</td><td>{shares[1]:.1%}</td>" in page
    assert "Both write the same bytes" in page
    assert "writes 200 texts at once" in page


def test_recordings_of_two_runs_are_refused(decoded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    shutil.copytree(decoded / "decoding", tmp_path / "decoding")
    path = tmp_path / "decoding" / "placed" / "collectives.jsonl"
    header, *records = path.read_text().splitlines()
    named = json.dumps(json.loads(header) | {"config_sha256": "0" * 64})
    path.write_text("".join(f"{line}\n" for line in (named, *records)))
    line = refused(capsys, "report", decoded / "run", "--decoding", tmp_path / "decoding", "--out", tmp_path / "x.html")
    assert line.startswith(f"{path}: line 1, config_sha256: is not that of ")


def test_generate_refuses_placements_and_recordings_that_do_not_fit(
    decoded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = decoded / "run"
    assert refused(capsys, "generate", run, "--record", tmp_path / "x").startswith("--record: one rank sends nothing")
    assert refused(capsys, "generate", run, "--prompts", tmp_path / "none").startswith(f"{tmp_path / 'none'}: file: ")
    (tmp_path / "prompts").write_text("def f(\n\n")
    line = refused(capsys, "generate", run, "--prompts", tmp_path / "prompts")
    assert line.startswith(f"{tmp_path / 'prompts'}: file: contains no prompt, or an empty line")
