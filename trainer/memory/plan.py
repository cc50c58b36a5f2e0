"""From a configuration to the memory of its ranks."""

from trainer.config.engine import FSDPConfig
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.memory.engine.fsdp import FSDPMemory, Unit
from trainer.memory.engine.protocol import EngineMemory
from trainer.memory.engine.zero import Partition, ZeroMemory
from trainer.memory.engine.zero3 import Zero3Memory
from trainer.memory.recording import Recording
from trainer.model.build import dense_parameters, meta_network
from trainer.trace.formula.protocol import ELEMENT_BYTES
from trainer.trace.formula.reduction import optimizer_groups


def engine_memory(config: RunConfig, layout: Layout, recording: Recording, *, copies_input: bool = False) -> EngineMemory:
    dense = dense_parameters(config, layout.tensor_parallel)
    if isinstance(config.engine, FSDPConfig):
        network = meta_network(config, layout.tensor_parallel)
        inside = {id(parameter) for parameter in network.blocks.parameters()}
        ranks = layout.data_parallel
        return FSDPMemory(
            blocks=tuple(
                Unit([tuple(parameter.shape) for parameter in block.parameters()], ranks) for block in network.blocks
            ),
            root=Unit([tuple(p.shape) for p in network.parameters() if id(p) not in inside], ranks),
            element_bytes=ELEMENT_BYTES[config.engine.precision],
            reshard_after_forward=config.engine.reshard_after_forward,
        )
    element_bytes = ELEMENT_BYTES[config.engine.precision]
    sum_bytes = ELEMENT_BYTES["fp32"] if layout.accumulation > 1 else element_bytes
    if config.engine.zero_stage == 3:
        return Zero3Memory(
            sizes=tuple(dense),
            events=(*recording.forward, *recording.backward),
            num_ranks=layout.data_parallel,
            element_bytes=element_bytes,
            sum_bytes=sum_bytes,
            bucket_elements=config.engine.bucket_elements,
            copies_input=copies_input,
        )
    groups = optimizer_groups(dense, [])
    partitions = tuple(Partition(group=group, num_ranks=layout.data_parallel) for group in groups)
    ranks = (max(range(layout.data_parallel), key=lambda rank: sum(groups[0].sizes[i] for i in partitions[0].touched(rank))),)
    return ZeroMemory(
        stage=config.engine.zero_stage,
        partitions=partitions,
        ranks=ranks,
        owner=tuple((0, place) for place in range(len(dense))),
        element_bytes=element_bytes,
        sum_bytes=sum_bytes,
        bucket_elements=config.engine.bucket_elements,
        overlaps=config.engine.precision == "bf16",
    )
