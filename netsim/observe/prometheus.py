"""Progress of a sweep as metrics for Prometheus."""

import time

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from netsim.foundation.refusal import Refusal
from netsim.observe.status import Status

HOST = "127.0.0.1"


class Gauges:
    """Serves the progress of a sweep over HTTP on this machine, from a thread, with a metrics registry of its own."""

    def __init__(self, port: int) -> None:
        self.registry = CollectorRegistry()
        self._cells = Gauge("netsim_sweep_cells", "Cells of the sweep.", registry=self.registry)
        self._cells_done = Gauge("netsim_sweep_cells_done", "Finished cells, earlier included.", registry=self.registry)
        self._cells_failed = Gauge("netsim_sweep_cells_failed", "Cells with a run that failed.", registry=self.registry)
        self._runs = Gauge("netsim_sweep_runs", "Runs of all cells.", registry=self.registry)
        self._runs_done = Gauge("netsim_sweep_runs_done", "Finished runs, earlier included.", registry=self.registry)
        self._hops = Gauge(
            "netsim_sweep_packet_hops_done",
            "Packets times the links they passed, in the runs that this process finished.",
            registry=self.registry,
        )
        self._changed = Gauge(
            "netsim_sweep_last_change_timestamp_seconds",
            "Unix time at which a run last began or ended; stands still when the sweep hangs.",
            registry=self.registry,
        )
        self._running = Gauge(
            "netsim_sweep_running", "1 for each run under way.", ["cell", "run"], registry=self.registry
        )
        try:
            self._server, self._thread = start_http_server(port, addr=HOST, registry=self.registry)
        except (OSError, OverflowError) as error:
            problem = f"cannot be served on ({port}, {getattr(error, 'strerror', None) or error})"
            remedy = "choose another port, or 0 for any free one"
            raise Refusal("command line", "--prometheus-port", problem, remedy) from None

    @property
    def url(self) -> str:
        """Address of the metrics page."""
        return f"http://{HOST}:{self._server.server_port}/metrics"

    def __call__(self, status: Status) -> None:
        self._cells.set(status.cells)
        self._cells_done.set(status.cells_done)
        self._cells_failed.set(status.cells_failed)
        self._runs.set(status.runs)
        self._runs_done.set(status.runs_done)
        self._hops.set(status.packet_hops)
        self._changed.set(time.time())
        self._running.clear()
        for cell, run in status.running:
            self._running.labels(cell, run).set(1)

    def close(self) -> None:
        """Frees the port and ends the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
