import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe.__main__ import main
from moe.placement import Placement
from moe.placement.counts import RoutingStatistics
from moe.placement.solver.solve import SOLVERS
from moe.routing_trace import RoutingTrace
from netsim.foundation.terminal import Progress
from tests.each import each
from tests.moe.traces import coherent_walk, markov_trace

pytestmark = pytest.mark.usefixtures("blank_pictures")

GOLDEN = Path("tests/files/routing.npz")
SHAPE = ["--nodes", "2", "--ranks-per-node", "2"]


@pytest.fixture
def trace_path(tmp_path: Path) -> Path:
    markov_trace(8, 4, 0.8, 400, seed=0, world_size=4).write(tmp_path / "routing.npz")
    return tmp_path / "routing.npz"


def run(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as stopped:
        return int(stopped.code or 0)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err.rstrip("\n")


@each("objective", ["coherent", "home", "copies", "hierarchical"])
def test_place_writes_placement_and_report_and_says_what_it_saved(
    objective: str, trace_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made" / "placement.json"
    assert main(["place", str(trace_path), *SHAPE, "--objective", objective, "--out", str(out)]) == 0
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "placement.html",
        "placement.json",
        "placement.report.json",
    ]
    placement = Placement.read(out)
    assert placement.dispatch == objective
    assert placement.objective is not None
    printed = capsys.readouterr()
    assert printed.err == ""
    for word in ("contiguous", "placed", "lower bound", "moves to another node", "400 tokens", "0 skipped"):
        assert word in printed.out
    assert f"{placement.objective.cost:.4g}" in printed.out
    name = {
        "coherent": "context-coherent",
        "home": "home-return",
        "copies": "copy a rank",
        "hierarchical": "copy a node",
    }
    assert name[objective] in " ".join(printed.out.split())
    numbers = json.loads((out.parent / "placement.report.json").read_text())
    assert numbers["cost_per_token"]["placed"] == pytest.approx(placement.objective.cost)
    assert numbers["cost_per_token"]["before_is"] == "contiguous"


def test_placing_twice_gives_the_same_bytes(trace_path: Path, tmp_path: Path) -> None:
    arguments = ["place", str(trace_path), *SHAPE, "--objective", "coherent", "--solver", "sweep", "--seed", "3"]
    for name in ("one", "two"):
        assert main([*arguments, "--out", str(tmp_path / f"{name}.json")]) == 0
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    for suffix in (".html", ".report.json"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_exflow_traces_and_other_costs_are_placed(tmp_path: Path) -> None:
    routing = markov_trace(8, 4, 0.8, 300, seed=0)
    np.save(tmp_path / "exflow.npy", routing.expert_ids[:, :, 0])
    np.save(tmp_path / "cost.npy", 1.0 - np.eye(4))
    for number, cost in enumerate(("hops", "intra=900Gbps,inter=100Gbps", str(tmp_path / "cost.npy"))):
        out, report = tmp_path / f"{number}.json", tmp_path / f"report-{number}.html"
        arguments = ["place", str(tmp_path / "exflow.npy"), "--num-experts", "8", *SHAPE, "--cost", cost]
        arguments += ["--objective", "coherent", "--solver", "sweep"]
        assert main([*arguments, "--out", str(out), "--report", str(report)]) == 0
        assert report.exists()
        assert Placement.read(out).cost_matrix[0] == (0, 1, *[(2, 9, 1)[number]] * 2)


def members() -> dict[str, Any]:
    with np.load(GOLDEN, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def with_header(**changes: Any) -> dict[str, Any]:
    arrays = members()
    header = {key: value for key, value in (json.loads(str(arrays["header"])) | changes).items() if value is not None}
    return arrays | {"header": np.array(json.dumps(header))}


def with_entry(name: str, value: float) -> dict[str, Any]:
    arrays = members()
    arrays[name].flat[0] = value
    return {name: arrays[name]}


MALFORMED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no ids": ({"expert_ids": None}, "expert_ids", "is missing"),
    "no ranks": ({"source_rank": None}, "source_rank", "is missing"),
    "no header": ({"header": None}, "header", "is missing"),
    "unknown version": (with_header(format="flowfabric.routing/9"), "header.format", "flowfabric.routing/9"),
    "no version": (with_header(format=None), "header.format", "is missing"),
    "unknown key": (with_header(colour="red"), "header.colour", "not a known key"),
    "missing size": (with_header(num_experts=None), "header.num_experts", "is missing"),
    "wrong type": (with_header(top_k="two"), "header.top_k", "'two'"),
    "header is text": ({"header": np.array("so long")}, "header", "is not JSON"),
    "header is a list": ({"header": np.array("[1]")}, "header.document", "dictionary"),
    "header is numbers": ({"header": np.arange(3)}, "header", "not a string"),
    "other shape": (with_header(num_layers=5, moe_layers=None), "expert_ids", "is not [tokens, 5, 2]"),
    "no tokens": ({"expert_ids": np.zeros((0, 3, 2), int)}, "expert_ids", "no tokens"),
    "id too high": (with_entry("expert_ids", 8), "expert_ids", "(first 8)"),
    "id too low": (with_entry("expert_ids", -2), "expert_ids", "(first -2)"),
    "ids are floats": ({"expert_ids": np.zeros((48, 3, 2))}, "expert_ids", "float64"),
    "rank outside": (with_entry("source_rank", 4), "source_rank", "[0, world_size 4)"),
    "ranks of others": ({"source_rank": np.zeros(7, int)}, "source_rank", "(7,)"),
    "weight is NaN": (with_entry("weights", np.nan), "weights", "1 entries are NaN"),
    "weights of others": ({"weights": np.zeros((48, 3))}, "weights", "(48, 3)"),
    "layers unnamed": (with_header(moe_layers=[1]), "header.moe_layers", "1 of 3"),
    "extra array": ({"surprise": np.arange(3)}, "surprise", "not an array of this format"),
    "pickled ids": ({"expert_ids": np.array([[[0]], [[1], [2]]], dtype=object)}, "expert_ids", "pickled"),
}


def archive(**changes: Any) -> bytes:
    """The golden trace with other arrays; None leaves one out."""
    file = io.BytesIO()
    np.savez(file, **{name: array for name, array in (members() | changes).items() if array is not None})
    return file.getvalue()


def single(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def with_text() -> bytes:
    file = io.BytesIO(GOLDEN.read_bytes())
    with zipfile.ZipFile(file, "a") as changed:
        changed.writestr("weights", "plain text")
    return file.getvalue()


WRONG_FILES: list[tuple[str, bytes, str, str]] = [
    *(("bad.npz", archive(**changes), f"{field}: ", problem) for changes, field, problem in MALFORMED.values()),
    ("cut.npz", GOLDEN.read_bytes()[:2000], "file: is not a complete .npz archive", ""),
    ("empty.npz", b"", "file: is not a complete .npz archive", ""),
    ("text.npz", b"hello, this is text", "file: is not a complete .npz archive", ""),
    ("bent.npz", GOLDEN.read_bytes().replace(b"\x93NUMPY", b"\x93NUMPI"), "header: ", ""),
    ("member.npz", with_text(), "weights: ", ""),
    ("single.npz", single(np.zeros((4, 3), int)), "file: holds a single array; name it .npy", "give --num-experts"),
    ("cut.npy", b"\x93NUMPY\x01\x00", "file: is not a plain array", ""),
    ("text.npy", b"hello, this is text", "file: is not a plain array", ""),
    ("outside.npy", single(np.full((4, 3), 9)), "expert_ids: 12 entries lie outside", ""),
    ("flat.npy", single(np.zeros(4, int)), "expert_ids: has shape (4,); save it", ""),
    ("floats.npy", single(np.zeros((4, 3))), "expert_ids: holds float64", ""),
    (
        "ragged.npy",
        single(np.array([[1, 2], [1]], dtype=object)),
        "file: is not a plain array (pickled, ragged",
        "save",
    ),
]


@each("name, content, problem, part", WRONG_FILES)
def test_wrong_files_are_refused_in_one_line(
    name: str, content: bytes, problem: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    experts = ["--num-experts", "8"] if path.suffix == ".npy" else []
    line = refused(["place", str(path), *SHAPE, *experts, "--out", str(tmp_path / "out" / "placement.json")], capsys)
    assert line.startswith(f"moe place: {path}: {problem}")
    assert part in line
    assert line.rpartition("; ")[2]
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@each(
    "options, problem", [([], "is not in a .npy trace; give"), (["--num-experts", "0"], "must be greater than 0 (0)")]
)
def test_an_array_needs_the_number_of_its_experts(
    options: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "exflow.npy", np.zeros((4, 3), int))
    words = ["place", str(tmp_path / "exflow.npy"), *SHAPE, *options, "--out", str(tmp_path / "placement.json")]
    assert f"exflow.npy: num_experts: {problem}" in refused(words, capsys)


@each(
    "options, line",
    [
        (
            ["--objective", "coherent", "--solver", "luck"],
            "moe place: --solver: unknown for objective coherent (luck); choose from auto",
        ),
        (["--objective", "miles"], "moe place: --objective: unknown (miles); choose from auto, coherent, home, copies"),
        (["--objective", "copies", "--solver", "sweep"], "moe place: --solver: unknown for objective copies"),
        (["--slots-per-rank", "1"], "moe place: --slots-per-rank: 1 slots a rank are not between 2"),
        (["--slots-per-rank", "9"], "moe place: --slots-per-rank: 9 slots a rank are not between 2"),
        (["--expert-parameters", "0"], "moe place: --expert-parameters: must be at least 1 (0)"),
        (["--held-out", "none.npz"], "moe place: none.npz: file: cannot be read (No such file or directory)"),
        (["--held-out", str(GOLDEN)], f"moe place: {GOLDEN}: header.num_layers: is 3 but the placed trace has 4; give"),
        (["--current", "none.json"], "moe place: none.json: file: cannot be read (No such file or directory)"),
        (["--cost", "intra=0Gbps,inter=1Gbps"], "moe place: --cost: a rate of 0 moves nothing (intra=0Gbps"),
        (["--objective", "home", "--solver", "sweep"], "moe place: --solver: unknown for objective home (sweep)"),
        (["--cost", "miles"], "moe place: --cost: is unknown (miles); give hops"),
        (["--seed", "-1"], "moe place: --seed: must be at least 0 (-1)"),
        (["--nodes", "0"], "moe place: --nodes: must be at least 1 (0); give a positive number"),
        (["--ranks-per-node", "-3"], "moe place: --ranks-per-node: must be at least 1 (-3)"),
        (["--nodes", "3"], "moe place: {trace}: num_experts: 8 experts do not divide among 6 ranks; choose"),
        (["--objective", "home", "--nodes", "4"], "moe place: {trace}: source_rank: the ranks that recorded"),
        (["--num-experts", "8"], "moe place: {trace}: num_experts: is given (8) but is in the .npz file; leave it out"),
        (["--report", "{out}"], "moe place: --report: is the same file as --out"),
        (["--results", "none.json"], "moe place: none.json: file: cannot be read (No such file or directory)"),
        (["--colour", "red"], "moe: unrecognized arguments: --colour red; see python -m moe --help"),
        (["--nodes", "two"], "moe place: argument --nodes: invalid int value: 'two'; see python -m moe place --help"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    options: list[str], line: str, trace_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "placement.json"
    filled = [option.format(out=out) for option in options]
    printed = refused(["place", str(trace_path), *SHAPE, "--out", str(out), *filled], capsys)
    assert printed.startswith(line.format(trace=trace_path))
    assert not out.exists()


def test_missing_files_and_verbs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "none.npz"
    line = refused(["place", str(missing), *SHAPE, "--out", str(tmp_path / "p.json")], capsys)
    assert line == f"moe place: {missing}: file: cannot be read (No such file or directory); check the path"
    missing = tmp_path / "none.npy"
    line = refused(["place", str(missing), *SHAPE, "--num-experts", "8", "--out", str(tmp_path / "p.json")], capsys)
    assert line == f"moe place: {missing}: file: cannot be read (No such file or directory); check the path"
    assert "required: VERB" in refused([], capsys)
    assert "displace is not a verb; use place; see" in refused(["displace"], capsys)
    (tmp_path / "file").touch()
    line = refused(["place", str(GOLDEN), *SHAPE, "--out", str(tmp_path / "file" / "p.json")], capsys)
    assert "output: cannot be written" in line


def test_debug_adds_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["place", str(tmp_path / "none.npz"), *SHAPE, "--out", str(tmp_path / "p.json"), "--debug"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback")
    assert error.rstrip().splitlines()[-1].startswith("moe place: ")


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["place", "--help"]) == 0
    text = capsys.readouterr().out
    for word in ("examples:", "python -m moe place", "home", "coherent", "hops (default"):
        assert word in text
    assert max(len(line) for line in text.splitlines()) <= 100


@each("verb", ["replay", "record", "export", "import"])
def test_every_verb_teaches_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert "example" in text
    assert f"python -m moe {verb} " in text
    assert "{" not in re.sub(r"\{\w+(,\w+)+\}", "", text)


def test_the_help_of_place_names_every_solver(capsys: pytest.CaptureFixture[str]) -> None:
    run(["place", "--help"])
    text = capsys.readouterr().out
    assert all(name in text for solvers in SOLVERS.values() for name in (*solvers, "packing", "contiguous"))
    assert "Affinity between layers saves traffic in this mode only" in " ".join(text.split())


def test_placing_against_the_placement_in_use_says_what_moves(
    trace_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["place", str(trace_path), *SHAPE, "--expert-parameters", "100"]
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    assert main([*place, "--out", str(first)]) == 0
    capsys.readouterr()
    results = ["--results", "tests/files/results.json"]
    assert main([*place, "--current", str(first), *results, "--out", str(second)]) == 0
    numbers = json.loads(second.with_suffix(".report.json").read_text())
    assert numbers["cost_per_token"]["before_is"] == "current"
    assert numbers["cost_per_token"]["before"] == pytest.approx(numbers["cost_per_token"]["placed"])
    assert numbers["moving"]["arrivals"] == []
    assert numbers["simulated"]
    assert "0 of 32 experts move against the current placement" in capsys.readouterr().out
    other = tmp_path / "other.json"
    Placement.contiguous(4, 8, 4, 1).write(other)
    line = refused([*place, "--current", str(other), "--out", str(tmp_path / "third.json")], capsys)
    assert line == f"moe place: {other}: num_nodes: is 4 but the new placement has 2; give the one in use"


def test_the_placement_in_use_is_kept_where_nothing_costs_less(
    trace_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A placement of more slots, without a cap, would look better than any that the search may make."""
    place = ["place", str(trace_path), *SHAPE, "--objective", "home", "--expert-parameters", "100"]
    first, second, third = (tmp_path / f"{name}.json" for name in ("first", "second", "third"))
    assert main([*place, "--slots-per-rank", "3", "--out", str(first)]) == 0
    capsys.readouterr()
    assert main([*place, "--current", str(first), "--out", str(second)]) == 0
    said, page = capsys.readouterr().out, second.with_suffix(".html").read_text()
    assert "keep the placement in use" in said
    assert "Keep the placement in use" in page
    kept, numbers = Placement.read(second), json.loads(second.with_suffix(".report.json").read_text())
    assert kept.rank_experts == Placement.read(first).rank_experts, "as many slots as in use"
    assert (numbers["cost_per_token"]["kept"], numbers["cost_per_token"]["saved"]) == (True, 0)
    assert numbers["moving"]["arrivals"] == []
    assert main([*place, "--current", str(first), "--slots-per-rank", "2", "--out", str(third)]) == 0
    said = capsys.readouterr().out
    assert "2 slots a rank, 3 in the current placement: memory differs" in said
    assert "keep the placement in use" not in said
    assert "takes 3 slots a rank and this one 2" in third.with_suffix(".html").read_text()


@each("objective", ["coherent", "copies"])
def test_a_placement_in_use_that_breaks_the_cap_is_left_and_one_that_wastes_traffic_too(
    objective: str, trace_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["place", str(trace_path), *SHAPE, "--objective", objective]
    loose, tight = tmp_path / "loose.json", tmp_path / "tight.json"
    assert main([*place, "--max-load", "none", "--out", str(loose)]) == 0
    assert main([*place, "--current", str(loose), "--max-load", "auto", "--out", str(tight)]) == 0
    numbers = json.loads(tight.with_suffix(".report.json").read_text())
    now, new = numbers["traffic"]["before"], numbers["traffic"]["placed"]
    if not numbers["cost_per_token"]["kept"]:
        assert now["busiest_rank_worst"] > max(1.1, new["busiest_rank_worst"])
    wasteful = tmp_path / "wasteful.json"
    Placement.contiguous(4, 8, 2, 2).write(wasteful)
    assert main([*place, "--current", str(wasteful), "--out", str(tight)]) == 0
    numbers = json.loads(tight.with_suffix(".report.json").read_text())
    assert numbers["cost_per_token"]["saved"] > 0
    assert not numbers["cost_per_token"]["kept"]
    capsys.readouterr()


def test_tokens_that_the_solver_did_not_see_stand_beside_its_own(
    trace_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, out = tmp_path / "other.npz", tmp_path / "placement.json"
    markov_trace(8, 4, 0.8, 300, seed=0, world_size=4, tokens_seed=1).write(other)
    arguments = ["place", str(trace_path), *SHAPE, "--objective", "coherent", "--held-out", str(other)]
    assert main([*arguments, "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("held out") == 4, "cost, moves to ranks and to nodes, busiest rank"
    held_out = json.loads(out.with_suffix(".report.json").read_text())["held_out"]
    placement, statistics = Placement.read(out), RoutingStatistics.collect(RoutingTrace.read(other), 4)
    walked, _ = coherent_walk(RoutingTrace.read(other), placement.expert_ranks(), np.array(placement.cost_matrix))
    assert held_out["placed"]["cost_per_token"] == pytest.approx(walked / 300)
    assert held_out["placed"]["tokens"] == 300
    loads = [np.bincount(ranks, of, 4) for ranks, of in zip(placement.expert_ranks(), statistics.loads, strict=True)]
    assert held_out["placed"]["busiest_rank_worst"] == pytest.approx(max(load.max() / load.mean() for load in loads))
    page = out.with_suffix(".html").read_text()
    assert f"{held_out['saved']:.0%} is saved" in page
    own = json.loads(out.with_suffix(".report.json").read_text())["cost_per_token"]["saved"]
    headline = page[page.index('class="finding"') :]
    assert f"by {held_out['saved']:.0%} on tokens that the solver did not see (saves {own:.0%} on its own)" in headline
    assert f"<dd>{held_out['saved']:.1%}<small>" in page, "the first of the large numbers"
    assert f"<dd>{held_out['placed']['busiest_rank_worst']:.2f}<small>times the mean; on its own" in page


def test_a_held_out_trace_of_other_ranks_is_refused_by_its_own_name(
    trace_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.npz"
    markov_trace(8, 4, 0.8, 300, seed=0, world_size=3).write(other)
    arguments = ["place", str(trace_path), *SHAPE, "--objective", "home", "--held-out", str(other)]
    line = refused([*arguments, "--out", str(tmp_path / "p.json")], capsys)
    assert line.startswith(f"moe place: {other}: source_rank: the ranks that recorded")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_long_work_says_on_a_terminal_what_it_does_and_leaves_no_line() -> None:
    stream = Terminal()
    with Progress("moe place", stream, after_s=0.0) as progress:
        progress.phase("reading the trace")
        progress.phase("counting tokens")
    written = stream.getvalue()
    assert written.index("moe place: reading the trace (0 s)") < written.index("moe place: counting tokens (")
    assert written.endswith("\r\x1b[K")
    assert "\n" not in written


@each("stream, after_s", [(Terminal(), 1e6), (io.StringIO(), 0.0)])
def test_short_work_and_work_that_nobody_watches_say_nothing(stream: io.StringIO, after_s: float) -> None:
    with Progress("moe place", stream, after_s) as progress:
        progress.phase("reading the trace")
    assert stream.getvalue() == ""


def test_spare_slots_are_filled_with_replicas(trace_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "placement.json"
    arguments = ["place", str(trace_path), *SHAPE, "--objective", "home", "--slots-per-rank", "3", "--out", str(out)]
    assert main(arguments) == 0
    placement = Placement.read(out)
    assert (placement.slots_per_rank, placement.has_replicas) == (3, True)
    assert "no bound is known" not in out.with_suffix(".html").read_text()


def test_placements_and_traces_go_to_exflow_and_back(
    trace_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    placed, csv, again, npy = (tmp_path / name for name in ("p.json", "p.csv", "again.json", "r.npy"))
    assert main(["place", str(trace_path), *SHAPE, "--out", str(placed)]) == 0
    assert main(["export", str(placed), "--to", "exflow-csv", str(csv)]) == 0
    assert main(["import", str(csv), "--num-experts", "8", *SHAPE, "--out", str(again)]) == 0
    np.testing.assert_array_equal(Placement.read(again).expert_ranks(), Placement.read(placed).expert_ranks())
    assert main(["export", str(trace_path), "--to", "exflow-npy", str(npy)]) == 0
    np.testing.assert_array_equal(np.load(npy), RoutingTrace.read(trace_path).expert_ids[:, :, 0])
    capsys.readouterr()
    line = refused(["export", str(placed), "--to", "exflow-pdf", str(csv)], capsys)
    assert line == "moe export: --to: unknown format (exflow-pdf); choose from exflow-csv, exflow-npy, sglang, vllm"
    line = refused(["import", str(csv), "--num-experts", "8", "--nodes", "1", "--ranks-per-node", "8",
                    "--out", str(again)], capsys)  # fmt: skip
    assert line.startswith(f"moe import: {csv}: layer 0: GPU ")
    csv.write_text(csv.read_text().replace("\n9,", "\n8,"))
    line = refused(["import", str(csv), "--num-experts", "8", *SHAPE, "--out", str(again)], capsys)
    assert line.startswith(f"moe import: {csv}: line 11: expert id 8 is listed twice; ")


def test_a_recorded_trace_is_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the rewriting does is tested with the replay; here only the way there and back through files."""
    missing = str(tmp_path / "none.jsonl")
    arguments = ["--routing", str(GOLDEN), "--placement", "tests/files/placement.json", "--out", "replayed.jsonl"]
    line = refused(["replay", missing, *arguments], capsys)
    assert line.startswith(f"moe replay: {missing}: ")


def test_the_torch_free_part_imports_no_torch() -> None:
    """In a fresh interpreter; the placement itself does without matplotlib, too."""
    program = (
        "import sys, moe.__main__, moe.placement, moe.routing_trace\n"
        "import moe.placement.solver.solve, moe.placement.solver.enumeration, moe.placement.bound.coherent\n"
        "assert not {'torch', 'matplotlib', 'scipy', 'trainer'} & set(sys.modules)\n"
        "import moe.report.report, moe.report.summary, moe.interchange.exflow, moe.migration.trigger\n"
        "assert not {'torch', 'trainer'} & set(sys.modules)\n"
        "assert {name.split('.')[1] for name in sys.modules if name.startswith('netsim.')} == {'foundation'}\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a package that was built without a compiler."""
    monkeypatch.setitem(sys.modules, "moe.placement.solver._kernels", None)


@pytest.mark.usefixtures("no_kernels")
@each("objective", ["coherent", "home", "copies", "hierarchical"])
def test_a_small_trace_is_placed_without_the_kernels(objective: str, trace_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "placement.json"
    assert main(["place", str(trace_path), *SHAPE, "--objective", objective, "--out", str(out)]) == 0
    assert Placement.read(out).dispatch == objective


@pytest.mark.usefixtures("no_kernels")
@each("objective", ["coherent", "home", "copies", "hierarchical"])
def test_a_search_without_the_kernels_is_refused(
    objective: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "routing.npz", tmp_path / "placement.json"
    markov_trace(16, 3, 0.8, 200, seed=0, world_size=4).write(path)
    command = ["place", str(path), *SHAPE, "--objective", objective, "--out", str(out)]
    assert refused([*command, "--max-load", "1.05"], capsys) == (
        "moe place: this search needs the kernels, which are not compiled here; "
        "install a C++ compiler and then flowfabric again"
    )
    assert not out.exists()
    for solver in ("contiguous", "packing"):
        assert main([*command, "--solver", solver]) == 0


def test_the_process_itself_exits_with_2() -> None:
    done = subprocess.run([sys.executable, "-m", "moe", "place"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
