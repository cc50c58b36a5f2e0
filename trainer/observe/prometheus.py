"""A page that Prometheus scrapes, in base units; counters end in _total."""

from __future__ import annotations

import errno
import socket
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
        "Rows that dispatch sent to another node in the last logged step, as a share of the most possible.",
    ),
    "migration_regret": (
        "moe_migration_regret",
        "Excess cost of the traffic over that under a newly searched placement, as a share, at the last check.",
    ),
    "time.placement_success_s": (
        "moe_placement_last_success_timestamp_seconds",
        "Unix time at which experts last moved to a new placement; absent before.",
    ),
    "time.samples_per_s": ("trainer_samples_per_second", "Training examples per second over all ranks."),
    "time.tokens_per_s": ("trainer_tokens_per_second", "Tokens of text per second over all ranks that are predicted."),
    "time.model_flops_per_s": (
        "trainer_model_flops_per_second",
        "Floating-point operations per second over all ranks that the model needs, by formula.",
    ),
    "time.mfu": (
        "trainer_mfu_ratio",
        "Model floating-point operations per second over the peak of all devices; absent without observe.peak_flops.",
    ),
    "time.data_wait_s": (
        "trainer_data_wait_seconds",
        "Time that a step waited for its batches, averaged since the last logged step.",
    ),
    "time.step_spread": (
        "trainer_step_spread_ratio",
        "Own work of the slowest rank, data and forward passes, over the mean of all ranks; 1 without stragglers.",
    ),
    "memory.peak_bytes": ("trainer_memory_peak_bytes", "Largest resident memory of any rank's process so far."),
    "memory.device_peak_bytes": (
        "trainer_device_memory_peak_bytes",
        "Largest memory that any rank's tensors took on its device so far; absent on CPUs.",
    ),
}
"""Figures of `Sink.write` that may rise and fall: name and # HELP. A gauge is absent until its figure is written."""

COUNTERS = {
    "skipped_steps": (
        "trainer_skipped_steps_total",
        "Optimiser steps that were not taken, for a gradient that was not finite or a spike, since the run began.",
    ),
    "bad_samples": ("trainer_bad_samples_total", "Examples that could not be read, since the run began."),
}
"""Figures of `Sink.write` that only rise."""

STEP = ("trainer_step", "Optimiser steps done.")
LAST_STEP = (
    "trainer_last_step_timestamp_seconds",
    "Unix time at which the last logged step ended.",
)
HEARTBEAT = (
    "trainer_heartbeat_timestamp_seconds",
    "Unix time at which the last step ended, logged or not, or the process began; stands still when the run hangs.",
)
STEP_SECONDS = ("trainer_step_seconds", "Wall time of an optimiser step.")
STEP_SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
EXPERT_TOKENS = ("moe_expert_tokens", "Choices that an expert took on all ranks since the process started.")
DROPPED_TOKENS = ("moe_dropped_tokens_total", "Choices that no expert took, since the process started.")

NAMES = frozenset(
    name
    for name, _ in (
        *(*GAUGES.values(), *COUNTERS.values()),
        *(STEP, LAST_STEP, HEARTBEAT, STEP_SECONDS, EXPERT_TOKENS, DROPPED_TOKENS),
    )
)
"""Every metric of the page."""


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
        self._step.set(step)
        self._heartbeat.set_to_current_time()
        self._step_seconds.observe(seconds)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Figures without a Prometheus name are left out."""
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
        if self._expert_tokens is None or self._dropped is None:
            self._expert_tokens = Gauge(*EXPERT_TOKENS, ["layer", "expert"], registry=self.registry)
            self._dropped = Counter(*DROPPED_TOKENS, registry=self.registry)
        for layer, of_layer in zip(use.layers, use.tokens, strict=True):
            for expert, tokens in enumerate(of_layer):
                self._expert_tokens.labels(layer=str(layer), expert=str(expert)).set(tokens)
        self._dropped.inc(use.dropped - self._dropped_so_far)
        self._dropped_so_far = use.dropped

    def close(self) -> None:
        """Frees the port and ends the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
