"""Which engine a configuration asks for."""

import torch

from trainer.config import RunConfig
from trainer.engine.blocks import prepare_blocks
from trainer.engine.config import DeepSpeedConfig, FSDPConfig
from trainer.engine.protocol import Engine, Network
from trainer.layout import Layout


def build_engine(module: Network, config: RunConfig, layout: Layout, device: torch.device) -> Engine:
    """Hands a network to the engine that `engine.kind` names; collective.

    Args:
        module: the network, float32 on the CPU.
        config: the run.
        layout: how it is laid out.
        device: where this rank computes.
    """
    prepare_blocks(module.blocks, config.engine)
    match config.engine:
        case DeepSpeedConfig():
            from trainer.engine.deepspeed import DeepSpeedEngine  # seconds to import

            return DeepSpeedEngine(module, config, layout, device)
        case FSDPConfig():
            from trainer.engine.fsdp import FSDPEngine

            return FSDPEngine(module, config, layout, device)
