"""A run for computed traces, described by a few numbers."""

from collections.abc import Iterable
from typing import Any, Literal

from moe.dispatch.messages import Sizes
from trainer.experiment.forecast.layers import TokenTraffic
from trainer.experiment.forecast.partitions import optimizer_groups
from trainer.experiment.forecast.protocol import DTYPES, ELEMENT_BYTES, Passage
from trainer.experiment.forecast.trace import RankGroups, TraceSpec
from trainer.experiment.forecast.training import Call, TrainingStep
from trainer.experiment.forecast.zero import ZeroTraffic

DENSE, EXPERT = (100, 7, 1000, 30), (64, 64, 64)


def rated(sizes: Iterable[int]) -> list[tuple[int, float]]:
    """Parameters that are learned at the same rate."""
    return [(size, 1.0) for size in sizes]


def zero_spec(
    *,
    world_size: int = 8,
    expert_parallel: int = 4,
    zero_stage: Literal[0, 1, 2] = 1,
    precision: Any = "fp32",
    accumulation: int = 1,
    bucket_elements: int = 10_000,
    moe_layers: tuple[int, ...] = (1, 3),
    steps: tuple[int, ...] = (1,),
    num_experts: int = 16,
    key_value_width: int = 0,
    **tokens: Any,
) -> TraceSpec:
    """Four blocks under ZeRO 0 to 2, two of them with experts as a rule; further settings are those of the tokens."""
    copies = world_size // expert_parallel
    engine = ZeroTraffic(
        stage=zero_stage,
        parameters=optimizer_groups(rated(DENSE), rated(EXPERT if moe_layers else ())),
        num_ranks={"data": world_size, "expert_data": copies},
        precision=precision,
        bucket_elements=bucket_elements,
        accumulation=accumulation,
    )
    element_bytes = ELEMENT_BYTES[precision]
    key_values = key_value_width * element_bytes
    sizes = Sizes(10, element_bytes, num_experts, DTYPES[precision], key_value_bytes=key_values)
    settings: dict[str, Any] = {"sizes": sizes, "top_k": 2, "tokens": 33, **tokens}
    travelling = TokenTraffic(expert_parallel=expert_parallel, moe_layers=moe_layers, **settings)
    call = Call(Passage(4, (travelling,) if moe_layers else ()), gradient=True)
    return TraceSpec(
        world_size=world_size,
        ranks_per_node=2,
        groups={
            "data": RankGroups(world_size),
            "expert": RankGroups(expert_parallel),
            "expert_data": RankGroups(copies, stride=expert_parallel),
        },
        program=TrainingStep(calls=(call,), engine=engine, accumulation=accumulation),
        steps=steps,
    )
