"""Training engines, which hold and update the weights; an engine's file is imported only when it is used."""

import torch

from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.config.sections import DeepSpeedConfig, FSDPConfig
from trainer.distributed.engine.protocol import Engine
from trainer.model.network import Network, prepare_blocks


def build_engine(module: Network, config: RunConfig, layout: Layout, device: torch.device) -> Engine:
    """The engine that `engine.kind` names, which takes over the network; collective.

    The network is float32 on the CPU, or its parameters are on the meta device: then its weights must be written before
    use.
    """
    prepare_blocks(module.blocks, config.engine)
    match config.engine:
        case DeepSpeedConfig():
            from trainer.distributed.engine.deepspeed import DeepSpeedEngine  # seconds to import

            return DeepSpeedEngine(module, config, layout, device)
        case FSDPConfig():
            from trainer.distributed.engine.fsdp import FSDPEngine

            return FSDPEngine(module, config, layout, device)
