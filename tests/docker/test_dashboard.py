"""The dashboard: well-formed, of the exporter's names alone, and answered by a real Prometheus."""

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator

import pytest
import yaml

from tests.docker.test_compose import PROVISIONING
from tests.multinode.monitoring import CONFIG, DASHBOARD, PROGRAM, prometheus, queries
from trainer.observe.prometheus import COUNTERS, GAUGES, NAMES, Prometheus
from trainer.observe.protocol import ExpertUse

installed = pytest.mark.skipif(shutil.which(PROGRAM) is None, reason=f"{PROGRAM} is not installed")
FUNCTIONS = {"avg", "by", "group_left", "histogram_quantile", "ignoring", "le", "rate", "sum", "time", "without"}
LABELS = {"expert"}


@pytest.fixture
def page() -> Iterator[Prometheus]:
    """The page of a run that has taken a step and has every figure there is."""
    sink = Prometheus(host="127.0.0.1", port=0)
    take(sink, 1)
    yield sink
    sink.close()


def take(sink: Prometheus, step: int) -> None:
    sink.stepped(step, 0.07)
    sink.write(step, {name: float(step) for name in (*GAUGES, *COUNTERS)})
    sink.write_experts(ExpertUse(layers=[0, 1], tokens=[[3 * step, step], [step, 2 * step]], dropped=step))


def test_the_dashboard_is_well_formed() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert dashboard["uid"]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    named = [panel["datasource"] for panel in panels]
    named += [target["datasource"] for panel in panels for target in panel["targets"]]
    assert all(found == {"type": source["type"], "uid": source["uid"]} for found in named)
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_every_name_in_a_query_is_one_of_the_page() -> None:
    suffixes = {f"trainer_step_seconds_{part}" for part in ("bucket", "count", "sum")}
    used = set()
    for query in queries():
        words = set(re.findall(r"[a-z_]{2,}", query.at(5).replace("ms", "")))
        used |= words - FUNCTIONS - LABELS
    assert used <= NAMES | suffixes
    unused = NAMES - used - {"trainer_step_seconds"}
    assert unused <= {
        "moe_migration_regret",
        "moe_placement_last_success_timestamp_seconds",
        "trainer_device_memory_peak_bytes",
        "trainer_last_step_timestamp_seconds",
        "trainer_tokens_per_second",  # of runs on text alone
    }


@installed
def test_a_real_server_answers_every_query(page: Prometheus) -> None:
    with prometheus(f"127.0.0.1:{page.port}", scrape_s=0.25) as server:
        missing, deadline, step = queries(), time.monotonic() + 20, 1
        while missing and time.monotonic() < deadline:
            time.sleep(0.25)
            step += 1
            take(page, step)
            missing = server.unanswered()
        assert missing == []
        loads = server.ask(next(query for query in queries() if query.panel == "Load of the experts"))
        assert sorted(loads) == pytest.approx([1 / 2, 2 / 3, 4 / 3, 3 / 2])


@installed
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_no_fault(page: Prometheus) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{page.port}/metrics", timeout=5) as reply:
        text = reply.read()
    for command, given in ((["check", "config", str(CONFIG)], b""), (["check", "metrics"], text)):
        result = subprocess.run(["promtool", *command], input=given, capture_output=True, timeout=30, check=False)
        assert result.returncode == 0, result.stderr + result.stdout
