"""A run trained, placed, priced and continued twice: what belongs together is shown, what does not is refused.

Everything is recorded by the trainer itself, on two ranks, in copies dispatch with two experts a token.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from moe.__main__ import main as moe
from moe.collective_trace import CollectiveRecord, read
from moe.placement.placement import Placement
from moe.price.price import Price, recorded_under
from moe.price.traffic import Traffic
from moe.replay import replay
from moe.routing_trace import RoutingTrace
from tests.forked import command
from tests.trainer.commands import DIGITS, refused
from trainer.__main__ import main
from trainer.observe.metrics import read_metrics

pytestmark = pytest.mark.usefixtures("blank_pictures")

MIXTURE = (
    *("moe.top_k=2", "moe.dispatch=copies", "moe.router={kind: top_k, aux_loss: 0.01}", "optim.clip_norm=null"),
    *("model.hidden=16", "model.num_layers=2", "model.num_heads=2"),
)
QUIET = ("sample.every=null", "evaluate.every=null", "checkpoint.keep=3", "observe={log_every: 1, tensorboard: false}")
FIRST = (*MIXTURE, *QUIET, "optim.steps=2", "checkpoint.every=2", "trace.steps=[1,2]")
LONGER = (*MIXTURE, *QUIET, "optim.steps=4", "checkpoint.every=4", "trace.steps=[3,4]")
FABRIC = "configs/scenarios/two_nodes.yaml"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with run, unplaced, placed, placement.json and price."""
    folder = tmp_path_factory.mktemp("runs")
    trained(folder / "run", *FIRST)
    place = ["place", str(folder / "run" / "traces" / "routing.npz"), "--nodes", "2", "--ranks-per-node", "1"]
    assert moe([*place, "--objective", "copies", "--out", str(folder / "placement.json")]) == 0
    for kind, more in (("unplaced", ()), ("placed", (f"moe.placement={folder / 'placement.json'}",))):
        shutil.copytree(folder / "run" / "checkpoints", folder / kind / "checkpoints")
        trained(folder / kind, *LONGER, *more)
    priced(folder, folder / "price")
    return folder


def trained(folder: Path, *overrides: str) -> None:
    result = command("train", DIGITS, f"run.dir={folder}", *overrides, ranks=2)
    assert result.returncode == 0, result.stdout + result.stderr


def priced(folder: Path, out: Path, *more: str, run: str = "unplaced") -> int:
    traces = folder / run / "traces"
    arguments = [str(traces / "collectives.jsonl"), "--routing", str(traces / "routing.npz"), "--scenario", FABRIC]
    placement = ["--placement", str(folder / "placement.json")]
    return moe(["price", *arguments, *placement, "--out", str(out), *more])


def whole(runs: Path) -> list[str]:
    """Options of a report that is given everything."""
    options = {"placement": "placement.json", "unplaced-run": "unplaced", "placed-run": "placed", "price": "price"}
    return [word for name, path in options.items() for word in (f"--{name}", str(runs / path))]


def test_the_placed_run_sends_what_the_replay_of_the_unplaced_predicts(runs: Path) -> None:
    placement = Placement.read(runs / "placement.json")
    recorded = read(runs / "placed" / "traces" / "collectives.jsonl")
    routing = RoutingTrace.read(runs / "unplaced" / "traces" / "routing.npz")
    assert routing.header.dispatch == "copies"
    assert recorded_under(*recorded, routing, placement, "copies")
    header, unplaced = read(runs / "unplaced" / "traces" / "collectives.jsonl")
    _, predicted = replay(header, unplaced, routing, placement)
    assert [timeless(record) for record in predicted] == [timeless(record) for record in recorded[1]]
    price = Price.read(runs / "price" / "price.json")
    schema = json.loads(Path("configs/schemas/price.schema.json").read_text())
    jsonschema.validate(json.loads((runs / "price" / "price.json").read_text()), schema)
    assert Traffic.of(*recorded, 1).rank_bytes == price.after.bytes_between_ranks < price.before.bytes_between_ranks


def test_a_placement_changes_no_bit_of_the_losses(runs: Path) -> None:
    """Two experts a token, and no norm that adds up the experts rank by rank: see test_placed_continuation."""
    one, other = (read_metrics(runs / kind / "metrics.jsonl") for kind in ("unplaced", "placed"))
    assert [record.values["loss"] for record in one] == [record.values["loss"] for record in other]
    assert len(one) == 2


def timeless(record: CollectiveRecord) -> CollectiveRecord:
    return replace(record, gap_ns=None, t_issue_ns=None, t_done_ns=None)


def test_the_logged_share_between_nodes_falls_as_the_rows_do(runs: Path) -> None:
    """Rows of the first step after the fork, counted from its routing trace; every row crosses, for each rank is a
    node."""
    placement = Placement.read(runs / "placement.json")
    contiguous = Placement.contiguous(placement.num_layers, placement.num_experts, 2, 1)
    for kind, placed in (("unplaced", contiguous), ("placed", placement)):
        routing = RoutingTrace.read(runs / kind / "traces" / "routing.npz")
        assert routing.step is not None
        first = routing.step == 3
        homes, ranks_LE = routing.source_rank[first], placed.expert_ranks()
        crossing = choices = 0
        for layer, ids_TK in enumerate(routing.expert_ids[first].transpose(1, 0, 2)):
            away = (ranks_LE[layer][ids_TK] != homes[:, None]) & (ids_TK >= 0)
            crossing, choices = crossing + int(away.any(axis=1).sum()), choices + int((ids_TK >= 0).sum())
        (record,) = (r for r in read_metrics(runs / kind / "metrics.jsonl") if r.step == 3)
        assert record.values["crossnode_token_fraction"] == pytest.approx(crossing / choices)


def test_the_page_shows_recorded_beside_predicted(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "index.html"
    assert main(["report", str(runs / "run"), *whole(runs), "--out", str(out)]) == 0
    page = out.read_text()
    price = Price.read(runs / "price" / "price.json")
    was, now = (f"{side.bytes_between_ranks / 1e6:,.3f} MB" for side in (price.before, price.after))
    assert f"<td>bytes between ranks</td><td>{was}</td><td>{now}</td><td>{now}</td>" in page
    assert "it is what the placed one sent, to the byte, record by record" in page
    assert "whole step, simulated (ecmp)" in page
    assert "(recorded)" in page
    assert "times the mean" in page


def test_what_is_of_another_run_is_refused(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.html"

    def line(*options: object) -> str:
        return refused(capsys, "report", runs / "run", *options, "--out", out)

    edited = tmp_path / "edited.json"
    document = json.loads((runs / "placement.json").read_text())
    edited.write_text(json.dumps(document | {"trace_sha256": "0" * 64}))
    assert line("--placement", edited).startswith(f"{edited}: trace_sha256: is not that of ")

    judged = tmp_path / "quality.json"
    judged.write_text(json.dumps({"frechet_distance_unguided": 1.0, "run_sha256": "0" * 64}))
    assert line("--quality", judged).startswith(f"{judged}: run_sha256: is of another run's samples (000000000000)")

    shutil.copytree(runs / "price", tmp_path / "price")
    path = tmp_path / "price" / "price.json"
    content = json.loads(path.read_text())
    for field in ("trace_sha256", "placement_sha256"):
        path.write_text(json.dumps(content | {field: "0" * 64}))
        told = line(*whole(runs)[:-1], tmp_path / "price")
        assert told.startswith(f"{path}: {field}: is not that of ")

    routing = RoutingTrace.read(runs / "run" / "traces" / "routing.npz")
    header = routing.header.model_copy(update={"config_sha256": "0" * 64})
    RoutingTrace(**{**vars(routing), "header": header}).write(tmp_path / "routing.npz")
    told = line("--placement", runs / "placement.json", "--routing", tmp_path / "routing.npz")
    assert told.startswith(f"{tmp_path / 'routing.npz'}: header.config_sha256: is not that of ")

    shutil.copytree(runs / "placed", tmp_path / "other")
    config = tmp_path / "other" / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("hidden: 16", "hidden: 24"))
    told = line("--placed-run", tmp_path / "other", "--unplaced-run", runs / "unplaced")
    assert told.startswith(f"{config}: model.hidden: is 24 where ")
    config.write_text(text.replace("seed: 0", "seed: 1"))
    told = line("--placed-run", tmp_path / "other", "--unplaced-run", runs / "unplaced")
    assert told.startswith(f"{config}: run.seed: is 1 where ")
    told = line("--placement", runs / "placement.json", "--placed-run", runs / "unplaced")
    assert told.startswith(f"{runs / 'unplaced' / 'config.yaml'}: moe.placement: is not ")
    assert not out.exists()


def test_a_placement_for_another_mode_claims_nothing(runs: Path, tmp_path: Path) -> None:
    placement, out = tmp_path / "home.json", tmp_path / "index.html"
    routing = str(runs / "run" / "traces" / "routing.npz")
    shape = ["--nodes", "2", "--ranks-per-node", "1", "--objective", "home"]
    assert moe(["place", routing, *shape, "--out", str(placement)]) == 0
    assert main(["report", str(runs / "run"), "--placement", str(placement), "--out", str(out)]) == 0
    page = out.read_text()
    assert "A placement that this run cannot use" in page
    assert "placing the experts" not in page


@pytest.mark.slow
def test_price_refuses_a_trace_of_another_placement(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert priced(runs, tmp_path / "out", run="placed") == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "--current: " in line
    assert "was not recorded under the contiguous placement in copies dispatch" in line
    assert not (tmp_path / "out").exists()
    assert priced(runs, tmp_path / "out", "--current", str(runs / "placement.json"), run="placed") == 0
    same = Price.read(tmp_path / "out" / "price.json")
    assert same.before == same.after


def test_price_refuses_a_routing_trace_of_another_run(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    trace, routing = runs / "placed" / "traces" / "collectives.jsonl", runs / "unplaced" / "traces" / "routing.npz"
    shared = ["--placement", str(runs / "placement.json"), "--scenario", FABRIC, "--out", str(tmp_path / "out")]
    assert moe(["price", str(trace), "--routing", str(routing), *shared]) == 2
    assert f"{routing}: header.config_sha256: is not that of {trace}" in capsys.readouterr().err


def test_price_hands_on_what_netsim_refuses(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text(Path(FABRIC).read_text().replace("leaf_spine", "ring_of_rings"))
    capsys.readouterr()
    assert priced(runs, tmp_path / "out", "--scenario", str(scenario)) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert f"--scenario: {scenario}: topology" in line
