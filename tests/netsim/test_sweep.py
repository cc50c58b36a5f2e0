"""Sweeps: the same files however they were made, nothing finished is lost or repeated, wrong input is one line."""

import json
import os
import re
import signal
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster

import netsim.sweep.driver
from netsim import simulate
from netsim.__main__ import main
from netsim.simulation.results import replacing
from netsim.sweep.driver import sweep
from netsim.sweep.folder import SweepFolder, _join_tables
from netsim.sweep.job import Files
from netsim.sweep.sweep_file import Cell, read_sweep
from tests.netsim.sweeps import GRID, SCENARIO, Here, contents, rows, written

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps without an executor start no process."""
    monkeypatch.setattr(netsim.sweep.driver, "Processes", Here)


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    """What changes when a file is written again."""
    return {str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.rglob("*.*")}


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep, made by one process without interruption."""
    folder = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(netsim.sweep.driver, "Processes", Here)
        assert main(["sweep", str(written(folder)), "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_a_cell_is_what_compare_writes_for_its_scenario(once, tmp_path):
    for cell in read_sweep(written(tmp_path)).cells:
        out = tmp_path / cell.key
        simulate(cell.scenario.resolved()).write(out)
        assert contents(once / "cells" / cell.key) == contents(out)
    assert len(list((once / "cells").iterdir())) == 4
    assert list((once / "unfinished").iterdir()) == []


def test_summary_says_what_each_run_was(once):
    table = rows(once)
    grid = [(spines, payload) for spines in "12" for payload in ("1KB", "4KB")]
    names = [(t, s) for t in ("ecmp", "spray_random") for s in "01"]
    keys = "topology.spines", "packet.payload", "transport", "seed"
    assert [tuple(row[key] for key in keys) for row in table] == [(*g, *n) for g in grid for n in names]
    for row in table:
        results = json.loads((once / "cells" / row["cell"] / "results.json").read_text())
        assert str(results["scenario"]["topology"]["spines"]) == row["topology.spines"]
        run = next(r for r in results["runs"] if (r["transport"], str(r["seed"])) == (row["transport"], row["seed"]))
        assert row["sha256"] == run["sha256"]
        assert row["completion_ns"] == str(run["completion_ns"])
        assert row["fct_p99_ns"] == str(run["fct_ns"]["p99"])
    page = (once / "index.html").read_text()
    assert "topology.spines" in page
    assert "spray_random" in page
    assert not re.search(r'(src|href)="https?:', page)


def test_the_number_of_processes_changes_nothing(once, tmp_path, capsys):
    assert main(["sweep", str(written(tmp_path)), "--out", str(tmp_path / "out"), "--jobs", "2"]) == 0
    assert contents(tmp_path / "out") == contents(once)
    assert "index.html" in capsys.readouterr().out


def test_a_cluster_changes_nothing(once, tmp_path):
    cluster: Any = LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0")
    with cluster:
        assert sweep(written(tmp_path), tmp_path / "out", executor=cluster.scheduler_address) == []
    assert contents(tmp_path / "out") == contents(once)


def test_a_finished_sweep_is_left_as_it_is(once, tmp_path):
    before = identities(once / "cells")
    assert sweep(written(tmp_path), once) == []
    assert identities(once / "cells") == before


class Torn(dict[str, bytes]):
    """Files of a run, of which half are written before a signal comes."""

    by: signal.Signals

    def items(self) -> Any:
        """The first half of them."""
        yield from list(super().items())[: len(self) // 2]
        os.kill(os.getpid(), self.by)


def stop(path: Path, out: Path, by: signal.Signals, after: int) -> None:
    """A sweep that a signal stops when it has kept some runs, in a process that has been forked."""
    keep, kept = SweepFolder.keep_run, count()

    def keep_or_stop(self: SweepFolder, cell: Cell, run: tuple[int, int], files: Files) -> None:
        torn = Torn(files)
        torn.by = by
        keep(self, cell, run, torn if next(kept) == after else files)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    SweepFolder.keep_run = keep_or_stop
    os._exit(main(["sweep", str(path), "--out", str(out)]))


def stopped(path: Path, out: Path, by: signal.Signals, after: int) -> int | None:
    """How a sweep ends that a signal stops half way into a run."""
    process = get_context("fork").Process(target=stop, args=(path, out, by, after))
    process.start()
    process.join(60)
    return process.exitcode


@pytest.mark.usefixtures("here")
def test_killed_and_resumed_is_as_never_killed(tmp_path):
    """Kill -9 in the second cell of four runs, then in the third."""
    path, out = written(tmp_path, grid={"topology.spines": [1, 2, 3]}), tmp_path / "out"
    finished: dict[str, tuple[int, int]] = {}
    for cells, runs in ((1, 1), (2, 2)):
        assert stopped(path, out, signal.SIGKILL, after=5) == -signal.SIGKILL
        assert len(list(out.glob("cells/*"))) == cells
        assert len(list(out.glob("unfinished/*/[0-9]*"))) == runs
        assert len(list(out.glob("unfinished/*/.*"))) == 1, "half of a run"
        assert finished.items() <= identities(out / "cells").items()
        finished = identities(out / "cells")
        assert all(row["completion_ns"] for row in rows(out))
    (out / "cells" / ".torn").mkdir()
    assert sweep(path, out) == []
    assert finished.items() <= identities(out / "cells").items()
    assert sweep(path, tmp_path / "never_killed") == []
    assert contents(out) == contents(tmp_path / "never_killed")


def test_runs_that_are_finished_are_not_repeated(once, tmp_path, monkeypatch):
    """A cell comes from its finished runs alone if all are there."""
    path, out = written(tmp_path), tmp_path / "out"
    folder = SweepFolder(out)
    cells = read_sweep(path).cells
    with folder.locked():
        for cell in cells:
            for position, name in enumerate(["ecmp", "spray_random"]):
                for seed in (0, 1):
                    one = cell.scenario.resolved() | {"transports": [name], "seeds": [seed]}
                    simulate(one).write(tmp_path / "one")
                    files = {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()}
                    whole = json.loads(files["results.json"]) | {"scenario": cell.scenario.resolved()}
                    folder.keep_run(cell, (position, seed), files | {"results.json": json.dumps(whole).encode()})
    monkeypatch.setattr(netsim.sweep.driver, "Processes", None)
    assert sweep(path, out) == []
    assert contents(out) == contents(once)


@pytest.mark.usefixtures("here")
def test_a_changed_grid_uses_what_is_still_valid_and_ignores_the_rest(once, tmp_path):
    out = tmp_path / "out"
    assert sweep(written(tmp_path, grid=GRID | {"topology.spines": [1, 3]}), out) == []
    before, seen = identities(out / "cells"), []
    assert sweep(written(tmp_path), out, watcher=seen.append) == []
    assert before.items() <= identities(out / "cells").items()
    assert seen[0].cells_done == 2
    assert len(list((out / "cells").iterdir())) == 6
    for name in ("summary.csv", "index.html"):
        assert (out / name).read_text() == (once / name).read_text()


@pytest.mark.usefixtures("here")
def test_a_torn_cell_is_made_again(tmp_path):
    path, out = written(tmp_path, grid={"topology.spines": [1]}), tmp_path / "out"
    assert sweep(path, out) == []
    before = contents(out)
    torn = next(out.glob("cells/*/results.json"))
    torn.write_text(torn.read_text()[:100])
    assert sweep(path, out) == []
    assert contents(out) == before


OWN = """
import os, signal
from netsim.transport import Transport
from netsim.transport.ecmp import Ecmp

class Dies(Ecmp):
    def admit(self, *arguments, **named):
        os.kill(os.getpid(), signal.SIGKILL)

class Fails(Ecmp):
    def admit(self, *arguments, **named):
        raise RuntimeError("no\\nway")
"""


def test_failures_are_named_and_others_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    grid = {"transports": [["ecmp", {"class": "own:Dies"}], ["ecmp", {"class": "own:Fails"}], ["spray_random"]]}
    path = written(tmp_path, grid=grid, scenario=SCENARIO | {"seeds": [0]})
    assert main(["sweep", str(path), "--out", "out", "--jobs", "1"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "failed" in line and line.startswith("netsim")]
    assert len(lines) == 2
    assert "own:Dies" in lines[0]
    assert "its process died (signal 9)" in lines[0]
    assert "own:Fails" in lines[1]
    assert "RuntimeError: no way" in lines[1]
    assert len(list(Path("out/cells").iterdir())) == 1
    problems = {row["transport"]: row["problem"] for row in rows(Path("out"))}
    assert problems.keys() == {"Dies", "Fails", "ecmp", "spray_random"}
    assert not problems["ecmp"]
    assert not problems["spray_random"]
    assert "signal 9" in problems["Dies"]
    assert "no way" in problems["Fails"]


def test_a_second_sweep_of_a_folder_is_refused(tmp_path, capsys):
    with SweepFolder(tmp_path / "out").locked():
        assert main(["sweep", str(written(tmp_path)), "--out", str(tmp_path / "out")]) == 2
    assert "another sweep is writing here" in capsys.readouterr().err


def test_packed_tables_are_joined_to_the_bytes_of_one_written_at_once(tmp_path):
    lines = [f"{number},{number * number}\n" for number in range(50_000)]
    for part, mine in enumerate((lines[:20_000], lines[20_000:])):
        (tmp_path / str(part)).mkdir()
        with replacing(tmp_path / str(part) / ("t.csv.gz" if part else "t.csv")) as file:
            file.writelines(["a,b\n", *mine])
    with replacing(tmp_path / "whole.csv.gz") as file:
        file.writelines(["a,b\n", *lines])
    _join_tables([tmp_path / "0" / "t.csv", tmp_path / "1" / "t.csv"], tmp_path / "joined.csv.gz")
    assert (tmp_path / "joined.csv.gz").read_bytes() == (tmp_path / "whole.csv.gz").read_bytes()


@pytest.mark.usefixtures("here")
def test_an_interrupt_keeps_what_is_finished(tmp_path):
    path, out = written(tmp_path), tmp_path / "out"
    assert stopped(path, out, signal.SIGINT, after=9) == 130
    assert len(list(out.glob("cells/*"))) == 2
    assert len(rows(out)) == 9
    assert (out / "index.html").exists()
