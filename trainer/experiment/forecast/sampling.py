"""The drawing of samples by a trained network, from its configuration, and the bytes that it sends.

Shape legend: W all ranks, N ranks of a group, G groups of one meaning.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.config.derived import tokens_per_example
from trainer.config.layout import Layout
from trainer.config.model import CausalTransitionConfig
from trainer.config.run import RunConfig
from trainer.experiment.forecast.layers import layers
from trainer.experiment.forecast.protocol import Collective, Operation, Passage, all_gather
from trainer.experiment.forecast.spec import rank_groups
from trainer.experiment.forecast.trace import TraceSpec
from trainer.flow import sampler as samplers


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """A program for the formula: calls of a network, one after another.

    Each call is a forward pass in evaluation mode, and a micro step of the trace. No weights are sent: a dense network
    is whole on every rank, or the ranks share its matrices. A head that is called by itself sends nothing. `collected`
    puts together the samples of all ranks after the last call; None: they stay where they are.
    """

    passages: tuple[Passage, ...]
    collected: Collective | None = None

    @property
    def calls(self) -> int:
        """Calls of the network."""
        return len(self.passages)

    def operations(self) -> Iterator[Operation]:
        """Yields the operations; equal calls share their collectives, which take much memory for many ranks."""
        made = {passage: list(passage.forward()) for passage in dict.fromkeys(self.passages)}
        for number, passage in enumerate(self.passages):
            for layer, collective in made[passage]:
                yield Operation(number, "forward", layer, collective)
        if self.collected is not None:
            yield Operation(self.calls - 1, "forward", None, self.collected)


PRECISION = "fp32"
"""Element type of averaged weights, and of all that a network computes with them when samples are drawn."""


def sampling_spec(
    config: RunConfig,
    layout: Layout,
    *,
    sampler: samplers.AnyConfig | int,
    guidance: float,
    examples: int,
    ranks_per_node: int,
) -> TraceSpec:
    """The specification of a drawing, as the sample verb draws under torchrun.

    The layout is that of `plan_sampling`. Each data rank draws examples by a sampler, or by so many calls; guidance by
    any scale but 0 and 1 doubles the rows of a call. Each call is a micro step of the only step.
    """
    if config.flow is None:
        raise ValueError(f"flow: a {config.model.kind} model follows none, so that no sampler draws from it")
    rows = examples if guidance in (0.0, 1.0) else 2 * examples
    collected = all_gather("data", "float32", 4 * examples * prod(config.state_shape), layout.data_parallel)
    read = _read_in_each_call(config, _network_calls(sampler))
    made = {
        tokens: tuple(layers(config, layout, tokens=rows * tokens, precision=PRECISION, evaluates=True))
        for tokens in set(read)
    }
    passages = {tokens: Passage(config.model.num_layers, traffic) for tokens, traffic in made.items()}
    return TraceSpec(
        world_size=layout.world_size,
        ranks_per_node=ranks_per_node,
        groups=rank_groups(layout),
        program=Sampling(passages=tuple(passages[tokens] for tokens in read), collected=collected),
        config_sha256=config.digest,
    )


def _read_in_each_call(config: RunConfig, calls: int) -> list[int]:
    """Returns how many tokens of an example a network reads in each call; a causal network reads only new tokens."""
    model = config.model
    if not isinstance(model, CausalTransitionConfig):
        return [tokens_per_example(config)] * calls
    state = model.state_tokens(config.state_shape)
    of_a_past = state if model.history == "last" else calls
    return [1 if number % of_a_past else state + 1 for number in range(calls)]


def _network_calls(sampler: samplers.AnyConfig | int) -> int:
    if isinstance(sampler, int):
        return sampler
    if isinstance(sampler, samplers.Transition):
        return sampler.steps  # whatever the head does, which sends nothing
    calls = sampler.calls()
    if calls is not None:
        return calls["network"]
    if isinstance(sampler, samplers.OwnSampler):
        raise ValueError(
            f"sampler.class: {sampler.class_path} does not say how often it calls the network; give the class an "
            "attribute evaluations_per_step, and the setting steps"
        )
    raise ValueError(
        f"sampler.kind: {sampler.kind} chooses its steps as it draws, so that no formula knows its calls of the "
        "network; use euler or heun"
    )


Bytes = NDArray[np.int64]


class SamplingBytes(NamedTuple):
    """Bytes of a drawing that leave each rank [W], if every message went straight to its reader.

    A sum over ranks is counted as two such exchanges: each rank adds up an equal share for all, and sends it to all.
    Rings send as much.

    Attributes:
        call: bytes of the first call; no other call sends more.
        whole: bytes of all calls and the collection.
    """

    call: Bytes
    whole: Bytes


def sampling_bytes(spec: TraceSpec) -> SamplingBytes:
    """Adds up the bytes of a drawing."""
    program = spec.program
    assert isinstance(program, Sampling)

    @cache
    def ranks_of(meaning: str) -> Bytes:
        """Returns the ranks of every process group of one meaning, [G, N]."""
        groups = spec.groups[meaning]
        return np.array(sorted({groups.of(rank) for rank in range(spec.world_size)}), np.int64)

    def sent(collectives: Iterable[Collective]) -> Bytes:
        by_rank_W = np.zeros(spec.world_size, np.int64)
        for collective in collectives:
            # The parts of an expert-parallel group are blocks of the whole group's messages.
            ranks_GN = ranks_of(collective.group if collective.exchange is None else "expert")
            by_rank_W[ranks_GN] += _sent_by_members(collective, ranks_GN.shape[1])
        return by_rank_W

    alike = Counter(program.passages)
    sums = {passage: sent(collective for _, collective in passage.forward()) for passage in alike}
    collected_W = sent([] if program.collected is None else [program.collected])
    whole_W = sum((number * sums[passage] for passage, number in alike.items()), collected_W)
    return SamplingBytes(call=sums[program.passages[0]], whole=whole_W)


def _sent_by_members(collective: Collective, num_ranks: int) -> Bytes | int:
    """Bytes that each member of a group sends to the others, [N], or one number for all of them."""
    if collective.exchange is not None:
        return collective.exchange.volume.sum(axis=1) - collective.exchange.volume.diagonal()
    assert collective.op in ("all_gather", "all_reduce")
    message = collective.bytes_in if collective.op == "all_gather" else 2 * collective.bytes_in // num_ranks
    return message * (num_ranks - 1)
