"""What an engine cannot do, refused before any process group exists."""

from trainer.config import RunConfig
from trainer.engine.config import DeepSpeedConfig


def check_engine(config: RunConfig) -> None:
    """Refuses settings that the engine and the rest of the run do not allow together.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    match config.engine:
        case DeepSpeedConfig(zero_stage=3) if config.moe is not None:
            raise ValueError(
                "engine.zero_stage: 3 shards parameters, which DeepSpeed refuses for experts; use 0, 1 or 2"
            )
        case DeepSpeedConfig(zero_stage=0, precision="bf16"):
            raise ValueError(
                "engine.precision: bf16 keeps its fp32 weights in the ZeRO optimiser; use zero_stage 1 to 3"
            )
