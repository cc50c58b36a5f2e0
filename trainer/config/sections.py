"""Sections of a run that are no parts of its method: steps, engine, checkpoints, traces, guards and figures."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, WithJsonSchema, model_validator

from netsim.foundation.settings import Section

_SHARE = r"^1/[1-9]\d*$"
Every = Annotated[
    PositiveInt,
    WithJsonSchema({"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "string", "pattern": _SHARE}]}),
]
"""Steps between two of something; `1/6`: a sixth of `optim.steps`."""


def counted_from_the_end(document: dict[str, Any]) -> dict[str, Any]:
    """Replaces steps that count from the end of the run, and shares of it, by step numbers; mistakes stay."""
    optim = document.get("optim")
    steps = optim.get("steps") if isinstance(optim, Mapping) else None
    if not isinstance(steps, int) or isinstance(steps, bool):
        return document
    counted = {**document}
    for name in ("evaluate", "sample"):
        section = document.get(name)
        if not isinstance(section, dict):
            continue
        every = section.get("every")
        if isinstance(every, str) and re.fullmatch(_SHARE, every):
            counted[name] = {**section, "every": max(1, steps // int(every.removeprefix("1/")))}
    trace = document.get("trace")
    if isinstance(trace, dict) and isinstance(recorded := trace.get("steps"), list | tuple):
        counted["trace"] = {**trace, "steps": [_from_the_end(step, steps) for step in recorded]}
    return counted


def _from_the_end(step: Any, steps: int) -> Any:
    """Returns the number of a step counted from the end; one before the first stays negative, which is no step."""
    negative = isinstance(step, int) and step < 0
    return steps + 1 + step if negative and steps + 1 + step > 0 else step


_Decay = Annotated[float, Field(ge=0, lt=1)]
_EXPERT = re.compile(r"\.experts\.\d+\.")
_Rates = Annotated[
    dict[Annotated[str, Field(pattern=r"^\w[\w.]*$")], PositiveFloat], Field(exclude_if=lambda rates: not rates)
]
"""None are not written: runs from before there were any keep their identity."""


class OptimConfig(Section):
    """AdamW, its schedule, clipping and the moving average of the weights."""

    steps: int = Field(gt=0, le=1_000_000_000)
    """Optimiser steps of the whole run."""
    global_batch: int = Field(gt=0, le=1_000_000_000)
    """Examples of one optimiser step over all ranks."""
    micro_batch: PositiveInt | None = None
    """Examples of one forward pass on one rank; null: no accumulation."""
    lr: PositiveFloat = 1e-3
    """Largest learning rate, reached after the warm-up; then it falls along a cosine."""
    warmup_steps: int = Field(default=0, ge=0, le=1_000_000_000)
    """Steps over which the learning rate rises from 0."""
    final_lr: float = Field(default=0.0, ge=0)
    """Learning rate at the end of the cosine."""
    rates: _Rates = Field(default_factory=dict)
    """Factors of the learning rate of some parameters, such as {routing: 100}. A key fits a parameter if a dotted part
    of its name begins with the key; of several keys that fit, the longest counts. The experts of a layer have one name,
    without numbers."""
    betas: tuple[_Decay, _Decay] = (0.9, 0.99)
    """Decay rates of the first and second moments of AdamW."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Share of a weight, times the learning rate, that AdamW takes off in each step."""
    clip_norm: PositiveFloat | None = 1.0
    """Largest norm of the gradient over all parameters and ranks; null: no clipping."""
    ema_decay: _Decay = 0.999
    """Decay of the moving average of the weights; at step s at most (1 + s) / (10 + s)."""

    def rate_of(self, name: str) -> float:
        """The factor of the learning rate of a parameter; 1 where `rates` do not name it."""
        fitting = [key for key in self.rates if fits(key, name)]
        return self.rates[max(fitting, key=len)] if fitting else 1.0


def fits(key: str, name: str) -> bool:
    """Whether a dotted part of a parameter's name begins with a key of `rates`; an expert's number is no part of it."""
    return f".{key}" in f".{_EXPERT.sub('.experts.', name)}"


def in_order(rates: Iterable[float]) -> list[float]:
    """Returns the distinct factors in the order of the optimiser's groups: 1 first, then from the smallest up."""
    return sorted(set(rates), key=lambda rate: (rate != 1, rate))


class DeepSpeedConfig(Section):
    """The DeepSpeed engine."""

    kind: Literal["deepspeed"] = "deepspeed"
    zero_stage: Literal[0, 1, 2, 3] = 1
    """ZeRO stage. 0: nothing is sharded; 1: the optimiser state is; 2: gradients, too; 3: parameters, too. With experts
    only 0 to 2."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format in which blocks compute; bf16 keeps float32 master weights and moments."""
    activation_checkpointing: bool = False
    """Keep only the inputs of blocks, and compute the rest again in the backward pass: less memory, more work."""
    compile: bool = False
    """Compile blocks at their first use, which takes a C++ compiler and some seconds; not with experts."""
    bucket_elements: PositiveInt = 100_000_000
    """Elements of one gradient reduction and of one parameter gathering. Under bf16 gradients are reduced in float32
    during the backward pass; a smaller bucket begins earlier, a larger one uses the network better."""

    @property
    def label(self) -> str:
        return f"ZeRO {self.zero_stage}, {self.precision}"

    @property
    def shards_parameters(self) -> bool:
        return self.zero_stage == 3


class FSDPConfig(Section):
    """Torch's fully sharded data parallelism (FSDP2), for dense models; weights, moments and reductions are float32."""

    kind: Literal["fsdp"] = "fsdp"
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the copies of the weights that a block computes with."""
    activation_checkpointing: bool = False
    """Keep only the inputs of blocks, and compute the rest again in the backward pass: less memory, more work."""
    compile: bool = False
    """Compile blocks at their first use, which takes a C++ compiler and some seconds."""
    reshard_after_forward: bool = True
    """Whether a block frees its gathered parameters after its forward pass: less memory, one more gathering."""

    @property
    def label(self) -> str:
        return f"FSDP2, {self.precision}"

    @property
    def shards_parameters(self) -> bool:
        return True


class ParallelConfig(Section):
    """How the ranks divide the model; the ranks that this leaves are data parallel."""

    expert: PositiveInt = 1
    """Ranks that share the experts of a layer."""
    tensor: PositiveInt = 1
    """Ranks that share the matrices of a block: attention by heads, feed-forward layers by their inner width."""
    pipeline: PositiveInt = 1
    """Ranks that divide the blocks among them. Only 1 is possible: every rank holds all blocks."""
    context: PositiveInt = 1
    """Ranks that divide a sequence among them. Only 1 is possible: every rank sees whole sequences."""

    @model_validator(mode="after")
    def _offered(self) -> "ParallelConfig":
        if self.pipeline > 1:
            raise ValueError(
                f"pipeline: {self.pipeline} stages would each hold some blocks, and the loop sends every micro batch "
                "through all of them; use 1, and tensor, expert or engine.zero_stage to divide a large model"
            )
        if self.context > 1:
            raise ValueError(
                f"context: {self.context} ranks would each hold some tokens of a sequence, and attention reads whole "
                "sequences of its rank; use 1, and tensor to divide the attention by heads"
            )
        return self


class CheckpointConfig(Section):
    """When the run is saved."""

    every: PositiveInt = 100
    """Steps between two checkpoints; the last step is always saved."""
    keep: PositiveInt = 2
    """Complete checkpoints that are kept, the newest ones."""
    asynchronous: bool = False
    """Copy the state to the host and train on while it is written; the results are the same."""


def _not_zero(step: int) -> int:
    if step == 0:
        raise ValueError("is 0, and steps are counted from 1; use 1 or more, or -1 for the last")
    return step


_Step = Annotated[int, AfterValidator(_not_zero), WithJsonSchema({"type": "integer", "not": {"const": 0}})]


class TraceConfig(Section):
    """Collectives and routing of some steps, written to traces/."""

    steps: tuple[_Step, ...] = ()
    """Optimiser steps to record; -1 is the last of the run. The first two are not representative; give at least two in
    a row."""
    ranks_per_node: PositiveInt | None = None
    """Ranks on one node; null: the local world size."""


class GuardConfig(Section):
    """What is done about steps that would harm the run, about ranks that hang and about ranks that are slow."""

    abort_after: PositiveInt = 10
    """Steps skipped in a row after which the run fails."""
    spike_factor: float | None = Field(default=None, gt=1)
    """Skip a step whose loss or gradient norm is more than this many times the median of the steps before it; null:
    skip none. What counts as a spike differs from task to task, and skipping a step that only looks like one slows
    learning."""
    spike_window: PositiveInt = 50
    """Steps over which the median for `spike_factor` is taken; before that many steps none counts as a spike."""
    hang_timeout_s: PositiveFloat | None = 1800.0
    """Seconds without the end of a step, its evaluation, samples and checkpoint included, after which a rank writes a
    dump of what it is doing and ends; null: it waits for ever."""
    collective_timeout_s: PositiveFloat = 600.0
    """Seconds after which a collective, or joining the run, fails; a line and a dump then name the rank that did not
    take part."""
    straggler_factor: float | None = Field(default=2.0, gt=1)
    """Print a line that names the slowest rank if its own work takes more than this many times the mean; null: print
    none."""


class ProfileConfig(Section):
    """Steps whose every operation is timed, on every rank, for Perfetto or chrome://tracing."""

    steps: tuple[PositiveInt, PositiveInt]
    """First and last optimiser step of the window. The first two steps of a run are not representative."""
    shapes: bool = False
    """Record the shapes of tensors."""
    memory: bool = False
    """Record allocations of memory."""

    @model_validator(mode="after")
    def _window_is_in_order(self) -> "ProfileConfig":
        first, last = self.steps
        if last < first:
            raise ValueError(f"steps: [{first}, {last}] ends before it begins; give the first step, then the last")
        return self


class WandbConfig(Section):
    """A run in Weights & Biases; needs the extra `flowfabric[wandb]`."""

    project: str = Field(min_length=1)
    """Name of the project."""
    entity: str | None = None
    """User or team; null: the account's own."""
    name: str | None = None
    """Name of the run; null: that of its folder."""
    mode: Literal["online", "offline"] = "online"
    """offline: files in run.dir/wandb alone, for `wandb sync` later."""


class ObserveConfig(Section):
    """Where metrics go besides metrics.jsonl."""

    log_every: PositiveInt = 10
    """Steps between two records of metrics."""
    tensorboard: bool = True
    """Also write the metrics for TensorBoard, to tensorboard/ in the run folder."""
    port: int | None = Field(default=None, ge=0, le=65535)
    """Port of the Prometheus page, 0 for any free one; null: none."""
    host: str = "127.0.0.1"
    """Address that the Prometheus page is bound to; 0.0.0.0 shows it to every network that this machine is in."""
    peak_flops: PositiveFloat | None = None
    """Floating-point operations that one device can do in a second, in the run's precision; null: no MFU."""
    profile: ProfileConfig | None = None
    """Steps to profile, written to profile/; null: none."""
    wandb: WandbConfig | None = None
    """Also send the metrics to Weights & Biases; null: do not."""
