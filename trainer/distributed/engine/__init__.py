"""Training engines, which hold and update the weights; an engine's file is imported only when it is used."""

import torch

from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.config.sections import DeepSpeedConfig, FSDPConfig
from trainer.distributed.engine.protocol import Engine
from trainer.model.network import Network, prepare_blocks


def build_engine(module: Network, config: RunConfig, layout: Layout, device: torch.device) -> Engine:
    """Hands a network to the engine that `engine.kind` names; collective.

    It is float32 on the CPU, or its parameters are on the meta device: then its weights are written before it is used.
    """
    prepare_blocks(module.blocks, config.engine)
    match config.engine:
        case DeepSpeedConfig():
            from trainer.distributed.engine.deepspeed import DeepSpeedEngine  # seconds to import

            return DeepSpeedEngine(module, config, layout, device)
        case FSDPConfig():
            from trainer.distributed.engine.fsdp import FSDPEngine

            return FSDPEngine(module, config, layout, device)
