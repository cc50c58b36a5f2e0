"""Collectives of the calls of a task, and of its draws in a step."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from math import prod

from trainer.checkpoint.pretrained import FrozenRun, references_of, restored_layout
from trainer.config.derived import tokens_per_example
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.config.sections import DeepSpeedConfig
from trainer.config.task import Calls
from trainer.experiment.forecast.layers import layers
from trainer.experiment.forecast.protocol import Collective, Passage, all_gather, broadcast
from trainer.experiment.forecast.training import Call, Collecting
from trainer.experiment.forecast.unknown import adapts, learns_flow
from trainer.experiment.forecast.work import Computation, computation
from trainer.flow.coupling import Assignment, Ends, GibbsWeighted, MinibatchOT, OwnCoupling
from trainer.flow.objective import MongeGap, Regression, Spread


def drawing(config: RunConfig, layout: Layout) -> Iterator[Collective]:
    """Yields, in order, a step's collectives that pair source and data, before the rollouts; only flows have any."""
    match _coupling(config):
        case MinibatchOT(scope="global_batch") | Assignment(scope="global_batch"):
            points = 4 * layout.micro_batch * layout.accumulation * prod(config.state_shape)
            for _ in ("data", "source"):
                yield all_gather("data", "float32", points, layout.data_parallel)
            yield broadcast("data", "int64", 8 * config.optim.global_batch)
    match _coupling(config):
        case MinibatchOT(solver="unbalanced", scope="global_batch"):
            yield broadcast("data", "float32", 4 * config.optim.global_batch)
        case GibbsWeighted(epsilon="auto"):
            yield all_gather("data", "float32", 4 * layout.micro_batch * layout.accumulation, layout.data_parallel)


def weighing(config: RunConfig, layout: Layout) -> Iterator[Collective]:
    """Yields a step's collectives that scale weights to a mean of 1 over the global batch, after the rollouts.

    The attribute ``weighs`` of a task's settings, or of a user's class, says whether its examples have weights.
    """
    match _coupling(config):
        case MinibatchOT(solver="unbalanced") | GibbsWeighted() | Ends():
            weighed = True
        case OwnCoupling() as coupling:
            weighed = getattr(coupling.imported(), "weighs", False)
        case _:
            weighed = config.task.weighs
    if weighed:
        yield all_gather("world", "float64", 8, layout.world_size)


def _coupling(config: RunConfig) -> object:
    """The coupling of source and data; None where the task learns no flow."""
    return config.flow.coupling if learns_flow(config) and config.flow is not None else None


def collecting(config: RunConfig, layout: Layout, *, work: bool = False) -> Collecting | None:
    """The rollouts of a cycle, None if the task has none; needs a run for which :func:`without_formula` is None."""
    calls = [one for one in config.task.calls or () if one.phase == "rollout"]
    if not calls:
        return None
    made = _made(config, layout, calls, work=work)
    return Collecting(calls=made, micro_batches=layout.accumulation * config.task.cycle)


def loss_calls(config: RunConfig, layout: Layout, *, work: bool = False) -> tuple[Call, ...]:
    """The calls of one loss; needs a run for which :func:`without_formula` is None."""
    calls = [one for one in config.task.calls or () if one.phase == "learn"]
    if learns_flow(config):
        calls = [Calls("learn", rows=states_of_a_loss(config), gradient=True)]
    return _made(config, layout, calls, work=work)


def _made(config: RunConfig, layout: Layout, calls: Sequence[Calls], *, work: bool) -> tuple[Call, ...]:
    made = [
        Call(passage, own, one.gradient, _computation(config, layout, one) if work else None)
        for one, (passage, own) in zip(calls, _passages(config, layout, calls), strict=True)
    ]
    return tuple(call for one, call in zip(calls, made, strict=True) for _ in range(one.count))


def states_of_a_loss(config: RunConfig) -> int:
    """Returns the number of states of an example in the only call of the network in a flow's loss."""
    match config.flow and config.flow.objective:
        case Regression(antithetic=True) | Regression(monge_gap=MongeGap()):
            return 2  # of a pair; no regression has both settings
        case Regression(spread=Spread(draws=draws)):
            return draws
    return 1


def losses(config: RunConfig, layout: Layout) -> int:
    """Returns the number of micro steps of a rank in an optimiser step, each of which has one loss."""
    return layout.accumulation * config.task.passes


def _passages(config: RunConfig, layout: Layout, calls: Sequence[Calls]) -> Iterator[tuple[Passage, bool]]:
    """Yields the traffic of the layers in each call, and whether the call is of the run's own network."""
    precision = config.engine.precision
    zero_3 = isinstance(config.engine, DeepSpeedConfig) and config.engine.zero_stage == 3

    @cache
    def own(states: int, evaluates: bool) -> Passage:
        tokens, replays = states * tokens_per_example(config), config.task.replays and not evaluates
        mode = {"evaluates": evaluates, "replays": replays, "sums": not zero_3}
        passages = layers(config, layout, tokens=tokens, precision=precision, **mode)
        return Passage(config.model.num_layers, tuple(passages))

    @cache
    def frozen(states: int) -> Passage:
        reference = _reference(config)
        if reference is None or reference.config.moe is None:
            return Passage(0)  # whole on every rank
        named = reference.config
        shared = restored_layout(named, reference.folder, layout.world_size)
        if shared.expert_parallel != layout.expert_parallel:
            raise ValueError(
                f"parallel.expert: {layout.expert_parallel} ranks share the experts, but {shared.expert_parallel} "
                f"share those of the run that the task asks ({reference.folder}); use {shared.expert_parallel}"
            )
        tokens = states * tokens_per_example(named)
        passages = layers(named, shared, tokens=tokens, precision="fp32", evaluates=True)
        return Passage(named.model.num_layers, tuple(passages))

    for one in calls:
        states = one.rows * layout.micro_batch
        if not one.reference or adapts(config):
            yield own(states, one.phase == "rollout"), True
        else:
            yield frozen(states), False


def _computation(config: RunConfig, layout: Layout, one: Calls) -> Computation:
    """Computation of a rank in a call; a frozen network computes in fp32, whole on each rank unless it has experts."""
    states = one.rows * layout.micro_batch
    if not one.reference or adapts(config):
        return computation(config, layout, states=states)
    reference = _reference(config)
    named = config if reference is None else reference.config
    if reference is not None and named.moe is not None:
        shared = restored_layout(named, reference.folder, layout.world_size)
        return computation(named, shared, states=states, precision="fp32")
    whole = computation(named, replace(layout, tensor_parallel=1), states=states, precision="fp32")
    return whole.without_blocks()


def _reference(config: RunConfig) -> FrozenRun | None:
    """The run whose network a task calls; None if the task names none."""
    named = [value for name, value in references_of(config).items() if name.startswith("task.")]
    return FrozenRun.of_run(named[0]) if named else None
