"""Calibrations: recovered from their own formula, honest about their errors, read from every source, and used."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml

import netsim.__main__
from netsim.calibration.cost import Cost, Regime
from netsim.calibration.document import Calibration, read_calibration
from netsim.calibration.fit import calibrate, judge
from netsim.calibration.measured import Measurement, read_measurements
from netsim.simulation.compare import simulate
from netsim.workload.kineto.convert import import_kineto
from tests.each import each
from tests.netsim.documents import collective_of

pytestmark = pytest.mark.usefixtures("blank_pictures")

SIZES = [2**power for power in range(9, 30)]
TRUE = Cost(
    "all_gather",
    "local",
    (
        Regime(SIZES[0], SIZES[6], (4.0, 0.8, 4e-5, 5e-5)),
        Regime(SIZES[7], SIZES[12], (7.0, 1.1, 6e-6, 2e-6)),
        Regime(SIZES[13], SIZES[-1], (22.0, 0.4, 2e-6, 1e-6)),
    ),
)
SHIPPED = sorted(path.stem for path in Path("configs/calibrations").glob("*.yaml"))


def measured(
    ranks: tuple[int, ...], sizes: list[int], noise: float = 0.0, seed: int = 0, device: str = ""
) -> list[Measurement]:
    draw = np.random.default_rng(seed)
    return [
        Measurement("all_gather", n, 1, size, TRUE.time_us(n, size) * float(np.exp(noise * draw.normal())), device)
        for n in ranks
        for size in sizes
    ]


@pytest.fixture(scope="module")
def exact() -> Calibration:
    return calibrate(measured((2, 8), SIZES), "test")


def test_a_formula_is_recovered_at_ranks_that_were_not_measured(exact):
    for n in (2, 4, 6, 8):
        for size in SIZES:
            predicted = exact.predict("all_gather", n, size)
            assert predicted is not None
            assert predicted.time_us == pytest.approx(TRUE.time_us(n, size), rel=1e-3)
            assert predicted.extrapolated == (n not in (2, 8))


def test_regimes_are_those_of_the_formula(exact):
    found = [(one.from_bytes, one.to_bytes) for one in exact.series[0].regimes]
    assert found == [(one.least, one.most) for one in TRUE.regimes]


@each("noise", [0.02, 0.1])
def test_intervals_cover_fresh_measurements(noise):
    found = [
        judge(calibrate(measured((2, 8), SIZES, noise, seed), "test"), measured((2, 4, 8), SIZES, noise, 100 + seed))
        for seed in range(2)
    ]
    covered = float(np.mean([one.errors[0].covered for one in found]))
    assert 0.85 <= covered <= 0.985
    assert max(one.errors[0].median for one in found) <= 1.5 * noise


def test_disturbed_measurements_do_not_decide():
    rows = measured((2, 8), SIZES, 0.01)
    disturbed = [row._replace(time_us=3 * row.time_us) if place % 15 == 7 else row for place, row in enumerate(rows)]
    assert judge(calibrate(disturbed, "test"), measured((2, 8), SIZES)).errors[0].p90 < 0.05


def test_intervals_widen_with_the_distance_from_what_was_measured():
    known = calibrate(measured((2, 4), SIZES[:14], 0.05), "test").series[0]
    further = [known.predict(4, SIZES[13] * 4**power) for power in range(4)]
    more = [known.predict(ranks, SIZES[5]) for ranks in (4, 8, 16, 32)]
    for predictions in (further, more):
        widths = [round(one.high_us / one.low_us, 9) for one in predictions]
        assert widths == sorted(widths)
        assert widths[-1] > widths[0]
        assert [one.extrapolated for one in predictions] == [False, True, True, True]


def test_beyond_its_sizes_a_series_grows_as_another_that_was_measured_there():
    def kernel(ranks: int, hosts: int, size: int, time_us: float) -> Measurement:
        return Measurement("dispatch", ranks, hosts, size, time_us)

    bent = [kernel(8, 1, size, 20 + 2e-6 * size + 1e-6 * max(0, size - SIZES[16])) for size in SIZES]
    slower = [kernel(16, 2, size, 1.7 * (20 + 2e-6 * size)) for size in SIZES[:17]]
    predicted = calibrate([*bent, *slower], "test").predict("dispatch", 16, SIZES[-1], hosts=2)
    assert predicted is not None
    assert predicted.extrapolated
    assert predicted.time_us == pytest.approx(1.7 * bent[-1].time_us, rel=0.05)


def test_hosts_that_share_a_bridge_are_distinguished_from_those_with_links():
    rows = [
        Measurement("all_to_all", n, 1, size, 6 + 0.5 * (n - 1) + 3e-6 * n * (n - 1) * size)
        for n in (2, 8)
        for size in SIZES
    ]
    found = calibrate(rows, "test")
    assert found.series[0].last == "bridge"
    predicted = found.predict("all_to_all", 4, SIZES[-1])
    assert predicted is not None
    assert predicted.time_us == pytest.approx(6 + 1.5 + 3e-6 * 12 * SIZES[-1], rel=1e-3)


def test_a_written_calibration_says_the_same_and_fits_its_schema(tmp_path, exact):
    exact.write(tmp_path / "c.yaml")
    assert read_calibration(tmp_path / "c.yaml") == exact
    schema = json.loads(Path("configs/schemas/calibration.schema.json").read_text())
    for path in (tmp_path / "c.yaml", *(Path("configs/calibrations") / f"{name}.yaml" for name in SHIPPED)):
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)


@each("name", SHIPPED)
def test_shipped_calibrations_grow_with_size_and_ranks(name):
    known = read_calibration(Path(name))
    assert known.source
    for series in known.series:
        for ranks in series.ranks:
            small, large = (series.predict(ranks, size).time_us for size in (1024, 2**28))
            assert 5 < small < large
        assert series.predict(series.ranks[-1], 2**28).time_us >= series.predict(series.ranks[0], 2**28).time_us


def test_nccl_tests_are_read_out_of_place():
    rows = read_measurements(Path("tests/files/all_reduce.txt"))
    assert [row.time_us for row in rows] == [20.25, 20.61, 22.19, 29.93, 49.06, 98.4, 301.7]
    assert [row.bytes for row in rows] == [4**power for power in range(5, 12)]
    assert {row[:3] + row[5:] for row in rows} == {("all_reduce", 4, 2, "NVIDIA H100 80GB HBM3", None)}


def test_a_table_of_deepep_counts_the_bytes_of_tokens(tmp_path):
    table = (
        "device,nodes,hidden,tokens,dispatch_sms,dispatch_us,combine_sms,combine_us\nH100,2,7168,64,24,44.5,20,97.1\n"
    )
    (tmp_path / "deepep.csv").write_text(table)
    assert read_measurements(tmp_path / "deepep.csv") == [
        Measurement("dispatch", 16, 2, 64 * (7168 + 4 * 7168 // 128), 44.5, "H100", 24),
        Measurement("combine", 16, 2, 64 * 7168 * 2, 97.1, "H100", 20),
    ]


def test_profiles_give_the_times_of_their_trace(tmp_path):
    import_kineto(Path("tests/files/kineto"), tmp_path / "trace.jsonl")
    assert read_measurements(Path("tests/files/kineto")) == read_measurements(tmp_path / "trace.jsonl")


def test_a_recorded_collective_takes_the_time_of_the_rank_that_came_last():
    path = Path("tests/files/collectives.jsonl")
    header, *records = map(json.loads, path.read_text().splitlines())
    by_call: dict[tuple[str, int], list[dict]] = {}
    for rank in range(header["world_size"]):
        seen: dict[str, int] = {}
        for record in records:
            if record["rank"] == rank:
                number = seen[record["group"]] = seen.get(record["group"], -1) + 1
                by_call.setdefault((record["group"], number), []).append(record)
    shortest = [
        min(record["t_done_ns"] - record["t_issue_ns"] for record in call) / 1000
        for call in by_call.values()
        if not call[0]["size1"]
        and call[0]["op"] not in ("send", "recv", "barrier")
        and sum(one["bytes_in"] for one in call)
    ]
    assert sorted(row.time_us for row in read_measurements(path)) == sorted(shortest)


INSIDE = {
    "format": "flowfabric.scenario/1",
    "topology": {"kind": "preset", "name": "dgx_h100_32", "hosts_per_leaf": 2, "parallel": 1},
    "packet": {"payload": "64KB"},
    "transports": ["ecmp"],
    "seeds": [0],
}


def workload(op: str, ranks: list[int]) -> dict[str, object]:
    return {"workload": collective_of(op, "4MB"), "ranks": ranks}


@each("engine", ["auto", "simpy"])
def test_a_collective_inside_a_host_takes_its_measured_time(engine):
    results = simulate({**INSIDE, "engine": engine, "jobs": [workload("all_reduce", [0, 1, 2, 3])]})
    predicted = read_calibration(Path("h100")).predict("all_reduce", 4, 4_000_000)
    assert predicted is not None
    assert results.runs[0].completion_ps == round(predicted.time_us * 1e6)
    assert len(results.runs[0].flows) == 0
    document = results.to_dict()
    jsonschema.validate(document, json.loads(Path("configs/schemas/results.schema.json").read_text()))
    (one,) = document["measured"]
    assert one["low_ns"] < one["measured_ns"] < one["high_ns"]
    assert 1 < one["measured_ns"] / one["nominal_ns"] < 3


def test_a_collective_between_hosts_is_simulated_as_without_a_calibration():
    jobs = [workload("all_to_all", [0, 1, 8, 9])]
    with_one, without = (
        simulate({**INSIDE, "jobs": jobs}, overrides=overrides) for overrides in ([], ["topology.calibration=null"])
    )
    assert with_one.runs[0].completion_ps == without.runs[0].completion_ps
    assert "measured" not in with_one.to_dict()


def test_nccl_takes_its_software_times_from_the_calibration():
    jobs, first = [workload("all_gather", [0, 8])], read_calibration(Path("h100")).series[0].regimes[0]
    times = [
        simulate({**INSIDE, "algorithms": algorithms, "jobs": jobs}).runs[0].completion_ps
        for algorithms in ("nccl", {"all_gather": "nccl", "launch": "0us"})
    ]
    assert times[0] - times[1] == round(first.launch_us * 1e6)


def test_a_calibration_that_changes_nothing_says_so(tmp_path, capsys):
    words = [
        "compare",
        "configs/scenarios/all_to_all_64.yaml",
        "transports=[ecmp]",
        "seeds=[0]",
        "--calibration",
        "h100",
    ]
    assert netsim.__main__.main([*words, "workload.bytes_per_rank=64KB", "--out", str(tmp_path)]) == 0
    assert "the calibration knows" in capsys.readouterr().err


HEAD = "op,ranks,bytes,us\n"
ROWS = "".join(f"all_gather,{n},{size},{TRUE.time_us(n, size):.3f}\n" for n in (2, 8) for size in SIZES)
TEXT = Path("tests/files/all_reduce.txt").read_text()
GOOD = yaml.safe_load(Path("configs/calibrations/a100.yaml").read_text())
WRONG_SOURCES = {
    "no file": (None, "cannot be read"),
    "nothing": ("", "is empty"),
    "binary": ("a\0b", "is not text"),
    "a header alone": (HEAD, "holds no measurements"),
    "a column missing": ("op,ranks,us\nall_gather,2,3\n", "line 1: column bytes occurs 0 times"),
    "a column twice": ("op,ranks,bytes,us,us\n", "line 1: column us occurs 2 times"),
    "another operation": (HEAD + "gather,2,512,3\n", "line 2: op: is no operation ('gather')"),
    "a repeated header": (HEAD + ROWS + HEAD, "op: is no operation ('op')"),
    "too few cells": (HEAD + "all_gather,2,512\n", "line 2: has 3 cells instead of 4"),
    "ranks with a fraction": (HEAD + "all_gather,2.5,512,3\n", "line 2: ranks"),
    "bytes with a unit": (HEAD + "all_gather,2,512B,3\n", "line 2: bytes"),
    "a time with a unit": (HEAD + "all_gather,2,512,3us\n", "line 2: us: is not a time in microseconds ('3us')"),
    "no number": (HEAD + "all_gather,2,512,nan\n", "line 2: us"),
    "no time": (HEAD + "all_gather,2,512,0\n", "line 2: us"),
    "a negative time": (HEAD + "all_gather,2,512,-3\n", "line 2: us"),
    "more hosts than ranks": ("op,ranks,hosts,bytes,us\nall_gather,2,3,512,3\n", "line 2: has 3 hosts for 2 ranks"),
    "ranks alone": (HEAD + "all_gather,1,512,3\n", "holds no measurements"),
    "too few rows": (HEAD + "all_gather,2,512,3\nall_gather,2,1024,3\n", "all_gather: has 2 measurements at 2 sizes"),
    "times that fall": (
        HEAD + "".join(f"all_gather,2,{size},{10**6 / size:.3f}\n" for size in SIZES),
        "all_gather: of 2 ranks takes",
    ),
    "nccl-tests without ranks": ("\n".join(TEXT.splitlines()[10:]), "line 5: comes before"),
    "nccl-tests without an operation": ("\n".join(TEXT.splitlines()[3:]).replace("all_reduce", "x"), "the operation"),
    "nccl-tests cut off": (TEXT[: TEXT.index("0.30")], "line 16: is cut off"),
    "nccl-tests without a time": (TEXT.replace("22.19", "  nan"), "line 17: time: is not a time"),
    "a trace of another format": ('{"format": "mine/1"}\n', "line 1"),
    "a formula's trace": (
        Path("tests/files/collectives.jsonl").read_text().replace('"recorded"', '"formula"', 1),
        "line 1: source: is formula",
    ),
}
WRONG_CALIBRATIONS = {
    "no YAML": ("{", "line 1: is not YAML"),
    "no mapping": ("- 1\n", "is a list"),
    "another format": (yaml.safe_dump({**GOOD, "format": "x/1"}), "format"),
    "no series": (yaml.safe_dump({**GOOD, "series": []}), "series"),
    "a series twice": (
        yaml.safe_dump({**GOOD, "series": GOOD["series"][:1] * 2}),
        "all_gather on 1 hosts occurs twice",
    ),
    "a rate below nothing": (yaml.safe_dump(GOOD).replace("link_gb_per_s: ", "link_gb_per_s: -"), "link_gb_per_s"),
    "sizes out of order": (yaml.safe_dump(GOOD).replace("ranks:\n  - 2\n", "ranks:\n  - 9\n", 1), "ranks of"),
    "an unknown key": (yaml.safe_dump({**GOOD, "speed": 1}), "speed: is not a known key"),
}


def refused(capsys: pytest.CaptureFixture[str], words: list[str], part: str) -> None:
    code = netsim.__main__.main(words)
    said = capsys.readouterr()
    assert code == 2, said
    assert said.err.count("\n") == 1, said.err
    assert part in said.err
    assert not said.out


@each("name", WRONG_SOURCES)
def test_wrong_measurements_are_one_line(name, tmp_path, monkeypatch, capsys):
    content, part = WRONG_SOURCES[name]
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("source.txt").write_text(content)
    refused(capsys, ["calibrate", "source.txt", "--out", "c.yaml"], part)
    assert not Path("c.yaml").exists()


@each("name", WRONG_CALIBRATIONS)
def test_wrong_calibrations_are_one_line(name, tmp_path, monkeypatch, capsys):
    content, part = WRONG_CALIBRATIONS[name]
    table = Path("tests/files/all_reduce.txt").resolve()
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(content)
    refused(capsys, ["calibrate", str(table), "--check", "c.yaml"], part)


@each(
    "words, part",
    [
        ([], "--out: is missing"),
        (["--out", "c.yaml", "--check", "c.yaml"], "not allowed with"),
        (["--out", "."], "is a folder"),
        (["--out", "c.yaml", "--device", "H100"], "--device: is in no source (H100)"),
        (["--check", "none"], "none: file: cannot be read"),
    ],
)
def test_wrong_words_are_one_line(words, part, tmp_path, monkeypatch, capsys):
    table = Path("tests/files/all_reduce.txt").resolve()
    monkeypatch.chdir(tmp_path)
    refused(capsys, ["calibrate", str(table), *words], part)


def test_a_file_of_several_devices_needs_a_name(tmp_path, capsys):
    lines = [f"{op},{n},{size},{us},{device}" for op, n, _, size, us, device, _ in
             measured((2, 8), SIZES, device="a") + measured((2, 8), SIZES, device="b")]  # fmt: skip
    table = tmp_path / "t.csv"
    table.write_text("op,ranks,bytes,us,device\n" + "\n".join(lines))
    refused(
        capsys, ["calibrate", str(table), "--out", str(tmp_path / "c.yaml")], "--device: is missing; name one of a, b"
    )
    assert netsim.__main__.main(["calibrate", str(table), "--out", str(tmp_path / "c.yaml"), "--device", "b"]) == 0
    assert read_calibration(tmp_path / "c.yaml").device == "b"
    capsys.readouterr()
    assert (
        netsim.__main__.main(["calibrate", str(table), "--check", str(tmp_path / "c.yaml"), "--device", "a", "--json"])
        == 0
    )
    (error,) = json.loads(capsys.readouterr().out)["errors"]
    assert (error["name"], error["measurements"], error["extrapolated"]) == ("all_gather", 42, 0)
    assert error["median"] < 0.001
