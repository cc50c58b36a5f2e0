import io
import socket
import threading
import urllib.request

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer.observe import Sink
from trainer.observe.dashboards import TensorBoard
from trainer.observe.metrics import MetricsFile
from trainer.observe.prometheus import COUNTERS, GAUGES, NAMES, Prometheus
from trainer.observe.protocol import ExpertUse
from trainer.observe.terminal import Dashboard, LogLines

VALUES = {"loss": 0.5, "grad_norm": 2.0, "lr": 1e-3, "time.step_s": 0.07, "time.samples_per_s": 914.0}


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def scrape(sink: Prometheus) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{sink.port}/metrics", timeout=5) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    assert all(family.documentation for family in families)
    return {sample.name: sample.value for family in families for sample in family.samples if "le" not in sample.labels}


@pytest.fixture(params=["metrics", "prometheus", "tensorboard", "lines", "dashboard"])
def sink(request, tmp_path) -> Sink:
    makers = {
        "metrics": lambda: MetricsFile(tmp_path / "metrics.jsonl"),
        "prometheus": lambda: Prometheus(host="127.0.0.1", port=0),
        "tensorboard": lambda: TensorBoard(tmp_path / "tensorboard", last_step=0),
        "lines": lambda: LogLines(first_step=0, last_step=3, stream=io.StringIO()),
        "dashboard": lambda: Dashboard(first_step=0, last_step=3, folder=tmp_path, stream=Screen()),
    }
    return makers[request.param]()


def test_every_sink_takes_any_figures_and_closes_twice(sink):
    sink.stepped(1, 0.07)
    sink.write(1, VALUES)
    sink.write(2, {"held_out_loss": 0.6, "some_new_figure": 1.0})
    sink.write(3, {"loss": float("nan")})
    sink.close()
    sink.close()


def test_prometheus_serves_what_was_written():
    sink = Prometheus(host="127.0.0.1", port=0)
    try:
        assert "trainer_loss" not in scrape(sink)
        for step in range(1, 8):
            sink.stepped(step, 0.07)
        sink.write(4, VALUES)
        sink.write(5, {**VALUES, "loss": 0.25})
        page = scrape(sink)
    finally:
        sink.close()
    assert page["trainer_step"] == 5
    assert page["trainer_loss"] == 0.25
    assert page["trainer_grad_norm"] == 2
    assert page["trainer_learning_rate"] == 1e-3
    assert page["trainer_samples_per_second"] == 914
    assert page["trainer_step_seconds_count"] == 7
    assert page["trainer_step_seconds_sum"] == pytest.approx(0.49)
    assert page["trainer_last_step_timestamp_seconds"] > 1.7e9
    assert page["trainer_heartbeat_timestamp_seconds"] > 1.7e9
    assert not any(name.startswith("python_") for name in page)
    assert not [family.name for family in REGISTRY.collect() if family.name.startswith("trainer")]


def test_prometheus_counts_what_a_resumed_run_counted_before():
    sink = Prometheus(host="127.0.0.1", port=0)
    try:
        assert scrape(sink)["trainer_skipped_steps_total"] == 0
        for skipped in (3, 3, 5):
            sink.write(1, {"skipped_steps": skipped, "bad_samples": 1})
        page = scrape(sink)
    finally:
        sink.close()
    assert page["trainer_skipped_steps_total"] == 5
    assert page["trainer_bad_samples_total"] == 1


def test_every_figure_that_has_a_name_is_on_the_page_under_it():
    sink = Prometheus(host="127.0.0.1", port=0)
    try:
        sink.stepped(1, 0.5)
        sink.write(1, dict.fromkeys((*GAUGES, *COUNTERS), 1.0))
        sink.write_experts(ExpertUse(layers=[0], tokens=[[3, 4]], dropped=2))
        found = scrape(sink).keys()
    finally:
        sink.close()
    made = {f"trainer_step_seconds_{part}" for part in ("count", "sum", "created")}
    created = {name.replace("_total", "_created") for name in found if name.endswith("_total")}
    assert found - made - created == NAMES - {"trainer_step_seconds"}


def test_prometheus_listens_on_its_host_alone_and_frees_the_port():
    sink = Prometheus(host="127.0.0.1", port=0)
    port, threads = sink.port, threading.active_count()
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", port), timeout=2):
        pass
    sink.close()
    assert threading.active_count() == threads - 1
    again = Prometheus(host="127.0.0.1", port=port)
    assert again.port == port
    again.close()


def test_a_port_in_use_is_refused_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=rf"^observe\.port: .*in use \({port}\); choose another port") as error:
            Prometheus(host="127.0.0.1", port=port)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host"])
def test_a_host_that_is_not_ours_is_refused(host):
    with pytest.raises(ValueError, match=rf"^observe\.host: .*\({host}\); choose another host"):
        Prometheus(host=host, port=0)


def test_tensorboard_shows_a_resumed_run_as_one_curve(tmp_path):
    for last_step, end, loss in ((0, 7, 1.0), (4, 9, 2.0)):
        sink = TensorBoard(tmp_path, last_step=last_step)
        for step in range(last_step + 1, end):
            sink.write(step, {"loss": loss, "time.step_s": 0.5})
        sink.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "time/step_s"}
    curve = [(scalar.step, scalar.value) for scalar in events.Scalars("loss")]
    assert curve == [(step, 1.0 if step <= 4 else 2.0) for step in range(1, 9)]
