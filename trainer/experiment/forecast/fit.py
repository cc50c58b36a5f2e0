"""The cheapest settings with which a run fits into a memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from trainer.config.derived import expert_parameters, tokens_per_example
from trainer.config.layout import Layout
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.experiment.forecast.memory import Estimator
from trainer.experiment.forecast.peak import StepMemory
from trainer.experiment.forecast.spec import trace_spec
from trainer.experiment.forecast.unknown import without_formula
from trainer.model.build import dense_parameters
from trainer.model.flops import training_flops
from trainer.observe.units import scaled

RECOMPUTED = 1 / 3
"""Arithmetic that recomputing blocks adds, relative to a step: one forward pass to three."""
OPERATIONS_PER_BYTE = 10_000
"""Operations of a device in the time in which it sends a byte: 400 TFLOP/s beside 40 GB/s."""


@dataclass(frozen=True)
class Settings:
    """Settings that a fitting may change; `zero_stage` is None for fsdp."""

    engine: str
    zero_stage: int | None
    activation_checkpointing: bool
    micro_batch: int
    expert: int
    tensor: int

    def of(self, config: RunConfig) -> RunConfig:
        """The run under these settings."""
        document = config.model_dump(mode="json")
        engine: dict[str, Any] = dict(document["engine"])
        if engine["kind"] != self.engine:
            engine = {"kind": self.engine, "precision": engine["precision"]}
        engine["activation_checkpointing"] = self.activation_checkpointing
        if self.zero_stage is not None:
            engine["zero_stage"] = self.zero_stage
        document["engine"] = engine
        document["optim"] = {**document["optim"], "micro_batch": self.micro_batch}
        document["parallel"] = {**document["parallel"], "expert": self.expert, "tensor": self.tensor}
        try:
            return RunConfig.model_validate(document)
        except ValidationError as error:
            raise ValueError(str(error)) from error

    def overrides(self, config: RunConfig, layout: Layout) -> list[str]:
        """The settings of a run that these replace, as arguments of a command line."""
        replaced = []
        recomputes = str(self.activation_checkpointing).lower()
        if config.engine.kind != self.engine:
            stage = "" if self.zero_stage is None else f"zero_stage: {self.zero_stage}, "
            replaced.append(
                f"'engine={{kind: {self.engine}, {stage}precision: {config.engine.precision}, "
                f"activation_checkpointing: {recomputes}}}'"
            )
        else:
            if self.zero_stage is not None and self.zero_stage != getattr(config.engine, "zero_stage", None):
                replaced.append(f"engine.zero_stage={self.zero_stage}")
            if self.activation_checkpointing != config.engine.activation_checkpointing:
                replaced.append(f"engine.activation_checkpointing={recomputes}")
        if self.micro_batch != layout.micro_batch:
            replaced.append(f"optim.micro_batch={self.micro_batch}")
        if self.expert != config.parallel.expert:
            replaced.append(f"parallel.expert={self.expert}")
        if self.tensor != config.parallel.tensor:
            replaced.append(f"parallel.tensor={self.tensor}")
        return replaced


@dataclass(frozen=True)
class Proposal:
    """The cheapest settings that fit, as overrides of a command line; cost is a multiple of the arithmetic alone."""

    settings: Settings
    overrides: list[str]
    memory: StepMemory
    cost: float


def fit(config: RunConfig, layout: Layout, limit: int) -> Proposal:
    """Searches the cheapest settings under which no rank exceeds so many bytes.

    The cost of a step is its arithmetic (a third more if blocks are recomputed) plus `OPERATIONS_PER_BYTE` for each
    byte that a rank sends. Of equal costs the larger micro batch comes first, then fewer ranks that share a block or
    experts, then the lower stage of ZeRO, with FSDP last.
    """
    estimator, costs = Estimator(), _Costs(config, layout.world_size)
    least: StepMemory | None = None
    for settings, changed, changed_layout in sorted(_candidates(config, layout), key=lambda one: costs.key(*one)):
        memory = estimator.memory(changed, changed_layout, scaled=True)
        if memory.peak.total <= limit:
            memory = estimator.memory(changed, changed_layout)
        if memory.peak.total <= limit:
            overrides = settings.overrides(config, layout)
            return Proposal(settings, overrides, memory, costs.of(settings, changed, changed_layout))
        if least is None or memory.peak.total < least.peak.total:
            least = memory
    assert least is not None, "the run's own settings are legal"
    part = max(least.peak.parts, key=lambda one: least.peak.parts[one])
    raise ValueError(
        f"--fit: {scaled(limit, 'B')} is less than any settings need on {layout.world_size} ranks; the least peak is "
        f"{scaled(least.peak.total, 'B')}, of which {scaled(least.peak.parts[part], 'B')} are {part}; "
        "use more ranks or a smaller model"
    )


def _candidates(config: RunConfig, layout: Layout) -> Iterator[tuple[Settings, RunConfig, Layout]]:
    """Every legal combination, with the run and its layout."""
    ranks = range(1, layout.world_size + 1)
    divisors = [number for number in ranks if layout.world_size % number == 0]
    mixture = config.moe is not None
    engines: list[tuple[str, int | None]] = [*(("deepspeed", stage) for stage in range(4)), ("fsdp", None)]
    for expert in divisors if mixture else [1]:
        for tensor in [1] if mixture else divisors:
            each, rest = divmod(config.optim.global_batch, layout.world_size // tensor)
            if rest:
                continue
            for micro_batch in (number for number in range(1, each + 1) if each % number == 0):
                for engine, stage in engines:
                    for recomputes in (False, True):
                        settings = Settings(engine, stage, recomputes, micro_batch, expert, tensor)
                        try:
                            changed = settings.of(config)
                            yield settings, changed, plan_layout(changed, layout.world_size)
                        except ValueError:
                            continue


class _Costs:
    """Costs of a step under settings, in operations of a device."""

    def __init__(self, config: RunConfig, world_size: int) -> None:
        flops = training_flops(config)
        if flops is None:  # six operations for each parameter that a token meets
            used = sum(dense_parameters(config))
            if config.moe is not None:
                used += config.model.num_layers * config.moe.top_k * expert_parameters(config)
            flops = 6 * used * tokens_per_example(config)
        self._arithmetic = flops * config.optim.global_batch / world_size
        self._traffic: dict[Settings, tuple[float, float]] = {}

    def key(self, settings: Settings, config: RunConfig, layout: Layout) -> tuple[float, ...]:
        """Returns a key that sorts settings, the cheapest first."""
        stage = 4 if settings.zero_stage is None else settings.zero_stage
        cost = round(self.of(settings, config, layout), 6)
        return (cost, -settings.micro_batch, settings.tensor, settings.expert, stage)

    def of(self, settings: Settings, config: RunConfig, layout: Layout) -> float:
        """Cost as a multiple of the arithmetic."""
        sent = self._sent(settings, config, layout)
        recomputed = RECOMPUTED * settings.activation_checkpointing
        return 1 + recomputed + OPERATIONS_PER_BYTE * sent / self._arithmetic

    def _sent(self, settings: Settings, config: RunConfig, layout: Layout) -> float:
        """Returns the bytes that a rank sends in a step; every later micro batch adds as many as the second."""
        if without_formula(config) is not None:
            return 0
        key = replace(settings, micro_batch=1)
        if key not in self._traffic:
            whole = layout.micro_batch * layout.accumulation
            one = replace(layout, micro_batch=whole, accumulation=1)
            two = replace(layout, micro_batch=-(-whole // 2), accumulation=2)
            first = _sent_bytes(config, one)
            self._traffic[key] = first, _sent_bytes(config, two) - first
        first, further = self._traffic[key]
        return first + (layout.accumulation - 1) * further


def _sent_bytes(config: RunConfig, layout: Layout) -> float:
    """Bytes that rank 0 sends in a step in rings, by the formula of the traces; those that stay on it are not sent."""
    spec = trace_spec(config, layout, ranks_per_node=layout.world_size)
    sent = 0.0
    for operation in spec.program.operations():
        ranks = spec.groups[operation.collective.group].of(0)
        fields = operation.collective.fields(0, ranks)
        whole = max(fields["bytes_in"], fields["bytes_out"])
        times = 2 if operation.collective.op == "all_reduce" else 1
        sent += times * whole * (len(ranks) - 1) / len(ranks)
    return sent
