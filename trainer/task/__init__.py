"""What a step learns from: the protocol that the training loop sees, its implementations and `build`."""

from trainer.config.model import AutoencoderConfig, GPTConfig
from trainer.config.run import RunConfig
from trainer.task.flow import DrawnPoints, FlowTask
from trainer.task.next_token import NextTokenTask
from trainer.task.protocol import Drawn, Task
from trainer.task.reconstruction import ReconstructionTask


def build(config: RunConfig) -> Task:
    """The task that the kind of the model asks for."""
    match config.model:
        case GPTConfig():
            return NextTokenTask()
        case AutoencoderConfig() as model:
            return ReconstructionTask(model)
    return FlowTask(config)


__all__ = ["Drawn", "DrawnPoints", "FlowTask", "NextTokenTask", "ReconstructionTask", "Task", "build"]
