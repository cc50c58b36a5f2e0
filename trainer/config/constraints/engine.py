"""What an engine cannot do, refused before any process group exists."""

from trainer.config.engine import DeepSpeedConfig, FSDPConfig
from trainer.config.run import RunConfig


def check_engine(config: RunConfig) -> None:
    """Refuses settings that the engine and the rest of the run do not allow together.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    if config.engine.compile and config.model.no_compilation is not None:
        raise ValueError(
            f"engine.compile: true makes one graph of a block, and {config.model.no_compilation}; use false, or a dit"
        )
    if config.engine.compile and config.moe is not None:
        raise ValueError(
            "engine.compile: true makes one graph of a block, and how many tokens an expert gets is known only while "
            "it runs; use false, or a dense model"
        )
    if config.engine.compile and config.parallel.tensor > 1:
        raise ValueError(
            "engine.compile: true makes one graph of a block, and ranks that share its matrices add up their sums in "
            "the midst of it; use false, or parallel.tensor=1"
        )
    match config.engine:
        case DeepSpeedConfig(zero_stage=3, compile=True):
            raise ValueError(
                "engine.compile: true makes one graph of a block, and ZeRO 3 gathers parameters in the midst of it; "
                "use false, zero_stage 0, 1 or 2, or engine.kind=fsdp"
            )
        case DeepSpeedConfig(zero_stage=3, activation_checkpointing=True) if config.model.no_repetition_in_zero_3:
            raise ValueError(
                "engine.activation_checkpointing: true computes a block again while its backward pass runs, and ZeRO 3 "
                f"then {config.model.no_repetition_in_zero_3}; use false, or zero_stage 0, 1 or 2"
            )
        case DeepSpeedConfig(zero_stage=3) if config.moe is not None:
            raise ValueError(
                "engine.zero_stage: 3 shards parameters, which DeepSpeed refuses for experts; use 0, 1 or 2"
            )
        case DeepSpeedConfig(zero_stage=0, precision="bf16"):
            raise ValueError(
                "engine.precision: bf16 keeps its fp32 weights in the ZeRO optimiser; use zero_stage 1 to 3"
            )
        case FSDPConfig() if config.moe is not None:
            raise ValueError(
                "engine.kind: fsdp divides every parameter over all ranks, and an expert lives on some of them; "
                "use deepspeed with zero_stage 0, 1 or 2, or a dense model"
            )
