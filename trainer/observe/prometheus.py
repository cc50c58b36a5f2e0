"""A page that Prometheus scrapes."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from trainer.observe.protocol import ExpertUse, Sink

GAUGES = {
    "loss": ("trainer_loss", "Training loss of the last logged step, averaged over the global batch."),
    "held_out_loss": ("trainer_held_out_loss", "Loss on the held-out split at the last evaluation."),
    "grad_norm": ("trainer_grad_norm", "Norm of the gradient before clipping, over all parameters and ranks."),
    "lr": ("trainer_learning_rate", "Learning rate of the last logged step."),
    "crossnode_token_fraction": (
        "moe_crossnode_token_fraction",
        "Share of the choices of the last logged step whose expert is on another node than the token.",
    ),
    "migration_regret": (
        "moe_migration_regret",
        "What the traffic costs more than under a fresh placement, as a share, at the last look.",
    ),
    "time.placement_success_s": (
        "moe_placement_last_success_timestamp_seconds",
        "Unix time at which experts last moved to a new placement; absent before.",
    ),
    "time.samples_per_s": ("trainer_samples_per_second", "Training examples per second over all ranks."),
}
STEP_SECONDS_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Prometheus(Sink):
    """Serves the latest figures over HTTP from a thread, in a registry of its own.

    A gauge appears once its figure has been written.

    Args:
        host: address to bind; "127.0.0.1" keeps the page on this machine, "0.0.0.0" opens it to the network.
        port: TCP port, 0 to 65535; 0 takes any free one.

    Raises:
        ValueError: if the address cannot be bound.
    """

    def __init__(self, *, host: str, port: int) -> None:
        self.registry = CollectorRegistry()
        self._gauges: dict[str, Gauge] = {}
        self._expert_tokens: Gauge | None = None
        self._dropped: Counter | None = None
        self._dropped_so_far = 0
        self._step = Gauge("trainer_step", "Optimiser steps done.", registry=self.registry)
        self._timestamp = Gauge(
            "trainer_last_step_timestamp_seconds",
            "Unix time at which the last logged step ended; stands still when the run hangs.",
            registry=self.registry,
        )
        self._step_seconds = Histogram(
            "trainer_step_seconds",
            "Wall time of an optimiser step.",
            buckets=STEP_SECONDS_BUCKETS,
            registry=self.registry,
        )
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

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Sink.write`; figures without a Prometheus name are left out."""
        self._step.set(step)
        self._timestamp.set(time.time())
        if "time.step_s" in values:
            self._step_seconds.observe(values["time.step_s"])
        for name in GAUGES.keys() & values.keys():
            if name not in self._gauges:
                self._gauges[name] = Gauge(*GAUGES[name], registry=self.registry)
            self._gauges[name].set(values[name])

    def write_experts(self, use: ExpertUse) -> None:
        """See `Sink.write_experts`."""
        if self._expert_tokens is None or self._dropped is None:
            self._expert_tokens = Gauge(
                "moe_expert_tokens",
                "Choices that an expert took on all ranks since the run was started.",
                ["layer", "expert"],
                registry=self.registry,
            )
            self._dropped = Counter(
                "moe_dropped_tokens", "Choices that no expert took since the run was started.", registry=self.registry
            )
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
