"""What can be seen of a sweep while it runs."""

import sys
import urllib.request
from collections.abc import Iterator

import pytest

import netsim.sweep.driver
from netsim.__main__ import main
from netsim.sweep.driver import sweep
from netsim.sweep.progress import Gauges, PlainLines, Status
from tests.netsim.sweeps import Here, rows, written

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture
def gauges() -> Iterator[Gauges]:
    served = Gauges(0)
    yield served
    served.close()


def scraped(gauges: Gauges) -> dict[str, float]:
    with urllib.request.urlopen(gauges.url, timeout=5) as answer:
        lines = [line.rpartition(" ") for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_gauges_follow_the_sweep(tmp_path, gauges, monkeypatch):
    monkeypatch.setattr(netsim.sweep.driver, "Processes", Here)
    pages = []

    def watch(status: Status) -> None:
        gauges(status)
        pages.append(scraped(gauges))

    path = written(tmp_path, grid={"topology.spines": [1, 2]})
    assert sweep(path, tmp_path / "out", watcher=watch) == []
    last = pages[-1]
    assert last["netsim_sweep_cells"] == last["netsim_sweep_cells_done"] == 2
    assert last["netsim_sweep_runs"] == last["netsim_sweep_runs_done"] == 8
    assert last["netsim_sweep_cells_failed"] == 0
    hops = sum(int(row["packet_hops"]) for row in rows(tmp_path / "out"))
    assert last["netsim_sweep_packet_hops_done"] == hops
    running = {name for page in pages for name, value in page.items() if name.startswith("netsim_sweep_running{")}
    assert 'netsim_sweep_running{cell="topology.spines=2",run="ecmp, seed 1"}' in running
    assert not any(name.startswith("netsim_sweep_running{") for name in last)
    done = [page["netsim_sweep_runs_done"] for page in pages]
    assert done == sorted(done)


def test_a_port_in_use_is_refused(gauges, tmp_path, capsys):
    port = gauges.url.rpartition(":")[2].partition("/")[0]
    assert main(["sweep", str(written(tmp_path)), "--out", str(tmp_path / "out"), "--prometheus-port", port]) == 2
    assert "--prometheus-port" in capsys.readouterr().err


def test_plain_lines_are_few(capsys):
    show = PlainLines(sys.stdout)
    show(Status(10, checking=True))
    for done in range(100):
        show(Status(10, runs=100, runs_done=done))
    assert capsys.readouterr().out == "0 of 10 cells, 0 of 100 runs\n"
