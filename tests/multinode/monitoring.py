"""A real Prometheus scrapes a real run, and every query of the dashboard is asked.

``python -m tests.multinode.monitoring`` trains on two ranks of this machine, starts the installed ``prometheus`` with
docker/prometheus.yml, whose target alone is replaced, and asks it what Grafana would. ``--picture`` draws the answers
over the time of the run.
"""

import argparse
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "docker" / "prometheus.yml"
DASHBOARD = ROOT / "docker" / "grafana" / "dashboards" / "flowfabric.json"
RUN = ROOT / "configs" / "runs" / "digits_moe.yaml"
SETTINGS = ("evaluate.every=50", "sample.every=null", "trace.steps=[]", "observe.peak_flops=5e10")
PROGRAM = "prometheus"
SCRAPES_A_RATE_NEEDS = 4
"""Grafana's $__rate_interval spans that many scrapes."""
_SECONDS_AT_MOST = 150


@dataclass(frozen=True)
class Query:
    """What one curve of the dashboard asks.

    Attributes:
        panel: title of its panel.
        name: of the curve.
        expression: in PromQL, with Grafana's variables.
    """

    panel: str
    name: str
    expression: str

    def at(self, scrape_s: float) -> str:
        """The expression as Grafana sends it, for a server that scrapes every so many seconds."""
        return self.expression.replace("$__rate_interval", f"{round(1000 * SCRAPES_A_RATE_NEEDS * scrape_s)}ms")


def queries() -> list[Query]:
    """Every query of the dashboard."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [
        Query(panel["title"], target["legendFormat"], target["expr"])
        for panel in panels
        for target in panel.get("targets", [])
    ]


class Server:
    """A running Prometheus.

    Attributes:
        scrape_s: seconds between two scrapes.
    """

    def __init__(self, port: int, scrape_s: float) -> None:
        self.scrape_s, self._address = scrape_s, f"http://127.0.0.1:{port}"

    def ready(self) -> bool:
        """Whether it takes queries."""
        try:
            return urllib.request.urlopen(f"{self._address}/-/ready", timeout=2).status == 200
        except OSError:
            return False

    def ask(self, query: Query) -> list[float]:
        """The latest value of each series that answers."""
        found = self._result("query", query=query.at(self.scrape_s))
        return [float(series["value"][1]) for series in found]

    def course(self, query: Query, start: float, end: float) -> list[tuple[list[float], list[float]]]:
        """Times and values of each series over a span of Unix time."""
        span = {"start": str(start), "end": str(end), "step": str(self.scrape_s)}
        found = self._result("query_range", query=query.at(self.scrape_s), **span)
        return [([float(at) for at, _ in one["values"]], [float(value) for _, value in one["values"]]) for one in found]

    def unanswered(self) -> list[Query]:
        """The queries of the dashboard that no series answers with a number."""
        return [query for query in queries() if not any(map(math.isfinite, self.ask(query)))]

    def _result(self, verb: str, **parameters: str) -> list[Any]:
        address = f"{self._address}/api/v1/{verb}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=10) as reply:
            answer = json.load(reply)
        assert answer["status"] == "success", answer
        return answer["data"]["result"]


@contextmanager
def prometheus(target: str, *, scrape_s: float | None = None) -> Iterator[Server]:
    """Runs the installed Prometheus with the shipped configuration.

    Args:
        target: host:port to scrape in place of the one in the file.
        scrape_s: seconds between two scrapes, the file's if None.

    Yields:
        The server, ready for queries; it listens on 127.0.0.1.
    """
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [target]}]
    if scrape_s is not None:
        config["global"]["scrape_interval"] = f"{round(1000 * scrape_s)}ms"
    interval = config["global"]["scrape_interval"]
    seconds = float(interval[:-2]) / 1000 if interval.endswith("ms") else float(interval[:-1])
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prometheus.yml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        with (Path(folder) / "log").open("w+", encoding="utf-8") as log:
            command = [PROGRAM, f"--config.file={path}", f"--storage.tsdb.path={folder}/data"]
            command.append(f"--web.listen-address=127.0.0.1:{port}")
            process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                server = Server(port, seconds)
                deadline = time.monotonic() + 30
                while not server.ready():
                    if process.poll() is not None or time.monotonic() > deadline:
                        log.seek(0)
                        raise RuntimeError(f"prometheus does not answer: {log.read()[-2000:]}")
                    time.sleep(0.1)
                yield server
            finally:
                process.terminate()
                process.wait(20)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody had a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@contextmanager
def run(folder: Path, port: int, steps: int) -> Iterator[subprocess.Popen[bytes]]:
    """Trains digits_moe on two ranks; stopped in the end.

    Args:
        folder: of the run.
        port: of its page.
        steps: of the run.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    settings = [*SETTINGS, f"optim.steps={steps}", f"run.dir={folder}", f"observe.port={port}"]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    command += ["-m", "trainer", "train", str(RUN), *settings]
    with (folder / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        yield process
        if process.poll():
            raise RuntimeError(f"the run failed: {(folder / 'log').read_text(encoding='utf-8')[-2000:]}")
    finally:
        process.terminate()
        process.wait(60)


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, scrapes and asks; prints what every query says.

    Args:
        argv: arguments, those of the process if None.

    Returns:
        0 if every query of the dashboard is answered, else 1.
    """
    parser = argparse.ArgumentParser(prog="monitoring", description=__doc__)
    parser.add_argument("--steps", type=int, default=2000, metavar="N", help="steps of the run (default: 2000)")
    parser.add_argument("--picture", type=Path, metavar="PATH", help="where the answers are drawn (.svg, .png)")
    arguments = parser.parse_args(argv)
    port, begun = free_port(), time.time()
    with (
        tempfile.TemporaryDirectory() as folder,
        run(Path(folder), port, arguments.steps) as training,
        prometheus(f"127.0.0.1:{port}") as server,
    ):
        missing = server.unanswered()
        while missing and training.poll() is None and time.time() - begun < _SECONDS_AT_MOST:
            time.sleep(server.scrape_s)
            missing = server.unanswered()
        for query in queries():
            values = server.ask(query)
            said = f"{len(values)} series" if len(values) > 1 else ", ".join(f"{value:.6g}" for value in values)
            print(f"{query.panel:30} {query.name:32} {said or 'NO ANSWER'}")
        if arguments.picture is not None:
            _draw(server, begun, time.time(), arguments.picture)
    print(f"{len(queries()) - len(missing)} of {len(queries())} queries of the dashboard answered")
    return 1 if missing else 0


def _draw(server: Server, start: float, end: float, path: Path) -> None:
    """Draws each panel's answers over seconds of the run."""
    from matplotlib.figure import Figure

    titles = list(dict.fromkeys(query.panel for query in queries()))
    columns = 3
    rows = math.ceil(len(titles) / columns)
    figure = Figure(figsize=(5 * columns, 2.6 * rows), layout="constrained")
    for place, title in enumerate(titles, start=1):
        axes = figure.add_subplot(rows, columns, place)
        for query in (query for query in queries() if query.panel == title):
            for times, values in server.course(query, start, end):
                axes.plot([at - start for at in times], values, linewidth=1.2)
        axes.set(title=title, xlabel="seconds")
    figure.savefig(path)


if __name__ == "__main__":
    raise SystemExit(main())
