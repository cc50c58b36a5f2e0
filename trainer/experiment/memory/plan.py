"""From a configuration to what its engine holds."""

from collections import defaultdict, deque
from collections.abc import Sequence

from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.config.sections import FSDPConfig
from trainer.experiment.memory.activation.recording import Recording
from trainer.experiment.memory.engine.fsdp import FSDPMemory, Unit
from trainer.experiment.memory.engine.protocol import EngineMemory
from trainer.experiment.memory.engine.zero import Partition, ZeroMemory
from trainer.experiment.memory.engine.zero3 import Zero3Memory
from trainer.trace.formula.protocol import ELEMENT_BYTES
from trainer.trace.formula.reduction import optimizer_groups


def engine_memory(
    config: RunConfig, layout: Layout, recording: Recording, *, copies_input: bool = False
) -> EngineMemory:
    """Memory of the engine of a run, on the rank that holds most.

    `copies_input`: whether a reduction makes a copy of what it sums up, as gloo does under ZeRO 3 and FSDP.
    """
    engine, parameters, ranks = config.engine, recording.parameters, layout.data_parallel
    element_bytes = ELEMENT_BYTES[engine.precision]
    if isinstance(engine, FSDPConfig):
        places = [*range(config.model.num_layers), "before"]
        *blocks, root = (Unit([one.shape for one in parameters if one.place == place], ranks) for place in places)
        return FSDPMemory(
            blocks=tuple(blocks),
            root=root,
            element_bytes=element_bytes,
            reshard_after_forward=engine.reshard_after_forward,
            copies_input=copies_input,
        )
    sum_bytes = ELEMENT_BYTES["fp32"] if layout.accumulation > 1 else element_bytes
    if engine.zero_stage == 3:
        return Zero3Memory(
            sizes=tuple(one.size for one in parameters),
            events=(*recording.forward, *recording.backward),
            num_ranks=ranks,
            element_bytes=element_bytes,
            sum_bytes=sum_bytes,
            bucket_elements=engine.bucket_elements,
            copies_input=copies_input,
        )
    rates = [config.optim.rate_of(one.name) for one in parameters]
    partitions = _partitions(layout, recording, rates)
    return ZeroMemory(
        stage=engine.zero_stage,
        partitions=partitions,
        ranks=_fullest(layout, partitions),
        owner=_owner(recording, partitions, rates),
        element_bytes=element_bytes,
        sum_bytes=sum_bytes,
        bucket_elements=engine.bucket_elements,
        overlaps=engine.precision == "bf16",
    )


def _partitions(layout: Layout, recording: Recording, rates: Sequence[float]) -> tuple[Partition, ...]:
    num_ranks = {"data": layout.data_parallel, "expert_data": layout.expert_data_parallel}
    rated = list(zip(recording.parameters, rates, strict=True))
    dense, experts = ([(one.size, rate) for one, rate in rated if one.is_expert == are] for are in (False, True))
    groups = optimizer_groups(
        [size for size, _ in dense],
        [size for size, _ in experts],
        [rate for _, rate in dense],
        [rate for _, rate in experts],
    )
    return tuple(Partition(group=group, num_ranks=num_ranks[group.group]) for group in groups)


def _owner(
    recording: Recording, partitions: tuple[Partition, ...], rates: Sequence[float]
) -> tuple[tuple[int, int], ...]:
    """Partition of each parameter, and its index there."""
    free: dict[tuple[bool, float], deque[tuple[int, int]]] = defaultdict(deque)
    for index, partition in enumerate(partitions):
        group = partition.group
        free[group.group == "expert_data", group.rate] += [(index, place) for place in range(len(group.sizes))]
    return tuple(free[one.is_expert, rate].popleft() for one, rate in zip(recording.parameters, rates, strict=True))


def _fullest(layout: Layout, partitions: tuple[Partition, ...]) -> tuple[int, ...]:
    """Number of the rank with the largest parameters in its parts, among those that share each partition."""

    def numbers(rank: int) -> tuple[int, ...]:
        return tuple(rank if one.group.group == "data" else rank // layout.expert_parallel for one in partitions)

    def touched(rank: int) -> int:
        shares = zip(partitions, numbers(rank), strict=True)
        return sum(one.group.sizes[place] for one, number in shares for place in one.touched(number))

    return numbers(max(range(layout.data_parallel), key=touched))
