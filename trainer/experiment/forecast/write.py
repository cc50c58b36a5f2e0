"""The trace verb: the collectives that a run would issue."""

import math

from moe import collective_trace
from moe.collective_trace import ROLLOUT
from trainer.config.file import load_config
from trainer.config.rules.drawing import of_drawn
from trainer.config.rules.objection import refuse
from trainer.config.rules.plan import plan_layout, plan_sampling
from trainer.config.run import RunConfig
from trainer.config.sample import FlowSample
from trainer.experiment.forecast.sampling import Sampling, SamplingBytes, sampling_bytes, sampling_spec
from trainer.experiment.forecast.spec import trace_spec
from trainer.experiment.forecast.trace import TraceSpec, constant_gaps, formula, recorded_gaps
from trainer.experiment.request.verbs import TraceRequest

LONGEST_GAP_NS = 24 * 3600 * 10**9
"""A day of computation between two collectives, as netsim takes it."""


def run(request: TraceRequest) -> int:
    """Writes a collective trace by formula."""
    world_size, gap_ns, out = request.world_size, request.gap_ns, request.out
    for name, value in (("--world-size", world_size), ("--ranks-per-node", request.ranks_per_node)):
        if value < 1:
            raise ValueError(f"{name}: {value} is below 1; give the number of ranks")
    if gap_ns is not None and gap_ns < 0:
        raise ValueError(f"--gap-ns: {gap_ns} is negative; give nanoseconds of compute, 0 or more")
    if gap_ns is not None and gap_ns > LONGEST_GAP_NS:
        raise ValueError(f"--gap-ns: {gap_ns:.4g} is above a day; give nanoseconds, {LONGEST_GAP_NS:,} at most")
    gaps = None if gap_ns is None else constant_gaps(gap_ns)
    if request.times is not None:
        gaps = recorded_gaps(collective_trace.read(request.times)[1])
    spec, about = _training(request) if request.sampling is None else _drawing(request, request.sampling)
    header, records = formula(spec, gaps)
    collective_trace.write(out, header, records)
    print(f"{out}: {about}, {out.stat().st_size / 1e6:.1f} MB")
    if request.sampling is not None:
        print(_sent(sampling_bytes(spec)))
    return 0


def _training(request: TraceRequest) -> tuple[TraceSpec, str]:
    """Returns the specification of steps of training, and a description of them."""
    for name, value in (("--examples", request.examples), ("--guidance", request.guidance)):
        if value is not None:
            raise ValueError(f"{name}: {value:g} applies to sampling, and this writes training steps; add --sampling")
    steps = (1,) if request.steps is None else _steps(request.steps)
    config = load_config(request.config, request.overrides)
    layout = plan_layout(config, request.world_size, ranks_per_node=request.ranks_per_node)
    spec = trace_spec(config, layout, ranks_per_node=request.ranks_per_node, steps=steps, work=request.work)
    written = "one step" if len(steps) == 1 else f"{len(steps)} steps"
    return spec, f"{written} of {request.world_size} ranks{_collected(config, spec)}"


def _steps(written: str) -> tuple[int, ...]:
    """Reads steps from a text such as ``1,2``."""
    numbers = [part.strip() for part in written.split(",")]
    if not all(number.isascii() and number.isdigit() and int(number) > 0 for number in numbers):
        raise ValueError(f"--steps: {written!r} does not list steps; give numbers of 1 or more, such as 1,2")
    return tuple(sorted({int(number) for number in numbers}))


def _collected(config: RunConfig, spec: TraceSpec) -> str:
    """Which of the written steps have rollouts; empty where the task has none."""
    if not any(one.phase == ROLLOUT for one in config.task.calls or ()):
        return ""
    steps = [step for step in spec.steps if spec.begins_cycle(step)]
    if not steps:
        return f"; none has rollouts, which are in the first of every {spec.cycle} steps"
    return f"; rollouts in step{'s' * (len(steps) > 1)} {', '.join(map(str, steps))}"


def _drawing(request: TraceRequest, sampling: str) -> tuple[TraceSpec, str]:
    """Returns the specification of a drawing of samples, and a description of it."""
    if request.work:
        raise ValueError("--work: what a drawing computes has no formula; leave it out")
    if request.steps is not None:
        raise ValueError(f"--steps: {request.steps} are steps of training, and a drawing is written; leave it out")
    config = load_config(request.config, request.overrides)
    if not isinstance(config.sample, FlowSample):
        raise ValueError(
            f"model.kind: {config.model.kind} follows no flow that a sampler could draw from; leave out --sampling"
        )
    sampler = config.sample.sampler
    if sampling:
        other = load_config(request.config, [*request.overrides, f"sample.sampler={sampling}"]).sample
        assert isinstance(other, FlowSample)
        sampler = other.sampler
    guidance = config.sample.guidance if request.guidance is None else request.guidance
    if not 0 <= guidance < math.inf:
        raise ValueError(f"--guidance: {guidance} is not a number of 0 or more; use 1 for none, 1.5 for sharper images")
    refuse(of_drawn(config, sampler, guidance))
    if config.sample.controls:
        raise ValueError(
            "sample.controls: they may call the network themselves and take its gradient, which no formula knows; "
            "write sample.controls=[] beside the other settings"
        )
    layout = plan_sampling(config, request.world_size, ranks_per_node=request.ranks_per_node)
    examples = request.examples
    if examples is None:
        examples = config.optim.micro_batch or max(1, config.optim.global_batch // layout.data_parallel)
    if examples < 1:
        raise ValueError(f"--examples: {examples} is below 1; give the examples that a rank draws")
    spec = sampling_spec(
        config, layout, sampler=sampler, guidance=guidance, examples=examples, ranks_per_node=request.ranks_per_node
    )
    assert isinstance(spec.program, Sampling)
    calls = spec.program.calls
    return spec, (
        f"{calls} call{'s' * (calls > 1)} of the network on {request.world_size} ranks, "
        f"{examples} example{'s' * (examples > 1)} on each, guidance {guidance:g}"
    )


def _sent(sent: SamplingBytes) -> str:
    call, whole = (f"{int(part.max()) / 1e6:,.4g} MB" for part in sent)
    return f"a rank sends {call} in a call of the network, {whole} in all"
