"""A page that Prometheus scrapes."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from trainer.observe.exposition import (
    COUNTERS,
    DROPPED_TOKENS,
    EXPERT_TOKENS,
    GAUGES,
    HEARTBEAT,
    LAST_STEP,
    STEP,
    STEP_SECONDS,
    STEP_SECONDS_BUCKETS,
)
from trainer.observe.protocol import ExpertUse, Sink


class Prometheus(Sink):
    """Serves the latest figures over HTTP from a thread, in a custom registry; raises ValueError if it cannot bind.

    A gauge appears once its figure has been written; counters begin at 0. Host 127.0.0.1 keeps the page on this
    machine, 0.0.0.0 opens it to the network; port 0 takes any free one.
    """

    def __init__(self, *, host: str, port: int) -> None:
        self.registry = CollectorRegistry()
        self._gauges: dict[str, Gauge] = {}
        self._counters = {name: Counter(*texts, registry=self.registry) for name, texts in COUNTERS.items()}
        self._counted = dict.fromkeys(COUNTERS, 0.0)
        self._expert_tokens: Gauge | None = None
        self._dropped: Counter | None = None
        self._dropped_so_far = 0
        self._step = Gauge(*STEP, registry=self.registry)
        self._last_step: Gauge | None = None
        self._heartbeat = Gauge(*HEARTBEAT, registry=self.registry)
        self._heartbeat.set_to_current_time()  # a run that hangs before its first step shows too
        self._step_seconds = Histogram(*STEP_SECONDS, buckets=STEP_SECONDS_BUCKETS, registry=self.registry)
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=self.registry)
        except OSError as error:
            unknown_host = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
            field, value = ("host", host) if unknown_host else ("port", port)
            raise ValueError(
                f"observe.{field}: cannot serve metrics on {host}:{port}, {error.strerror} ({value});"
                f" choose another {field}, or observe.port=null for no page"
            ) from error

    @property
    def port(self) -> int:
        """The port in use."""
        return self._server.server_port

    def stepped(self, step: int, seconds: float) -> None:
        """See `Sink.stepped`."""
        self._step.set(step)
        self._heartbeat.set_to_current_time()
        self._step_seconds.observe(seconds)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Sink.write`; figures without a Prometheus name are left out."""
        self._step.set(step)
        if self._last_step is None:
            self._last_step = Gauge(*LAST_STEP, registry=self.registry)
        self._last_step.set_to_current_time()
        for name in GAUGES.keys() & values.keys():
            if name not in self._gauges:
                self._gauges[name] = Gauge(*GAUGES[name], registry=self.registry)
            self._gauges[name].set(values[name])
        for name in COUNTERS.keys() & values.keys():
            self._counters[name].inc(values[name] - self._counted[name])
            self._counted[name] = values[name]

    def write_experts(self, use: ExpertUse) -> None:
        """See `Sink.write_experts`."""
        if self._expert_tokens is None or self._dropped is None:
            self._expert_tokens = Gauge(*EXPERT_TOKENS, ["layer", "expert"], registry=self.registry)
            self._dropped = Counter(*DROPPED_TOKENS, registry=self.registry)
        for layer, of_layer in zip(use.layers, use.tokens, strict=True):
            for expert, tokens in enumerate(of_layer):
                self._expert_tokens.labels(layer=str(layer), expert=str(expert)).set(tokens)
        self._dropped.inc(use.dropped - self._dropped_so_far)
        self._dropped_so_far = use.dropped

    def close(self) -> None:
        """See `Sink.close`; frees the port and ends the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
