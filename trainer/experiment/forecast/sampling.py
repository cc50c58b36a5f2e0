"""The drawing of samples by a trained network, from its configuration, and the bytes that it sends.

Shape legend: W all ranks, N ranks of a group, G groups of one meaning.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from math import prod

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

    Each call is a forward pass in evaluation mode, and a micro step of the trace. Weights are where they are used: a
    dense network is whole on every rank, or the ranks share its matrices. A head that is called by itself sends
    nothing. `collected` puts together the samples of all ranks after the last call; None: they stay where they are.
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


@dataclass(frozen=True, slots=True)
class SentBytes:
    """Bytes that leave the rank on which they were, if every message went straight to its reader.

    A sum over ranks is counted as two such exchanges: each rank adds up an equal share for all, and sends it to all.
    Rings send as much, but cross between nodes less often. `rank` is the rank that sends most; `crossnode` goes to
    other nodes.
    """

    rank: int
    total: int
    crossnode: int


@dataclass(frozen=True, slots=True)
class SamplingBytes:
    """Bytes of a drawing: of its first call, than which no other sends more, and of all calls and the collection."""

    call: SentBytes
    whole: SentBytes
    calls: int


def sampling_bytes(spec: TraceSpec) -> SamplingBytes:
    """Adds up the bytes of a drawing."""
    program = spec.program
    assert isinstance(program, Sampling)
    count = _Count(spec)
    alike = Counter(program.passages)
    sums = {passage: count.sum(collective for _, collective in passage.forward()) for passage in alike}
    whole_W, whole_crossnode = count.sum([] if program.collected is None else [program.collected])
    for passage, (by_rank_W, crossnode) in sums.items():
        whole_W, whole_crossnode = whole_W + alike[passage] * by_rank_W, whole_crossnode + alike[passage] * crossnode
    call = sums[program.passages[0]]
    return SamplingBytes(call=_sent(*call), whole=_sent(whole_W, whole_crossnode), calls=program.calls)


def _sent(by_rank_W: Bytes, crossnode: int) -> SentBytes:
    return SentBytes(rank=int(by_rank_W.max()), total=int(by_rank_W.sum()), crossnode=crossnode)


class _Count:
    """Sums up the bytes of collectives over the process groups of a trace."""

    def __init__(self, spec: TraceSpec) -> None:
        self._spec = spec
        self._ranks_GN = cache(self._ranks_of)
        self._apart_NN = cache(self._groups_apart)

    def sum(self, collectives: Iterable[Collective]) -> tuple[Bytes, int]:
        """Bytes that each rank sends [W], and all bytes that cross between nodes."""
        by_rank_W, crossnode = np.zeros(self._spec.world_size, np.int64), 0
        for collective in collectives:
            # The parts of an expert-parallel group are blocks of the whole group's messages.
            meaning = collective.group if collective.exchange is None else "expert"
            ranks_GN = self._ranks_GN(meaning)
            sent_NN = _messages(collective, ranks_GN.shape[1])
            by_rank_W[ranks_GN] += sent_NN.sum(axis=1)
            crossnode += int((sent_NN * self._apart_NN(meaning)).sum())
        return by_rank_W, crossnode

    def _ranks_of(self, meaning: str) -> Bytes:
        """Returns the ranks of every process group of one meaning, [G, N]."""
        groups = self._spec.groups[meaning]
        return np.array(sorted({groups.of(rank) for rank in range(self._spec.world_size)}), np.int64)

    def _groups_apart(self, meaning: str) -> Bytes:
        """Returns for each two places in a group how many groups have their ranks on different nodes, [N, N]."""
        nodes_GN = self._ranks_GN(meaning) // self._spec.ranks_per_node
        return (nodes_GN[:, :, None] != nodes_GN[:, None]).sum(axis=0)


def _messages(collective: Collective, num_ranks: int) -> Bytes:
    """Bytes from each member of a group to each other [N, N]."""
    if collective.exchange is not None:
        messages_NN = collective.exchange.volume.copy()
    elif collective.op == "all_gather":
        messages_NN = np.full((num_ranks, num_ranks), collective.bytes_in)
    else:
        assert collective.op == "all_reduce"
        messages_NN = np.full((num_ranks, num_ranks), 2 * collective.bytes_in // num_ranks)
    np.fill_diagonal(messages_NN, 0)
    return messages_NN
