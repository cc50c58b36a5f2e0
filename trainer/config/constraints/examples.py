"""Examples that a network cannot take."""

import math

from trainer.config.constraints.division import divisors
from trainer.config.model import AutoencoderConfig, BlockwiseConfig, BlockwiseMLPConfig, DiTConfig, GPTConfig, MLPConfig
from trainer.config.run import RunConfig
from trainer.data import OwnDataset, PythonSourceConfig


def check_examples(config: RunConfig) -> None:
    """Refuses examples of a shape or length that the model does not take.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    shape = config.state_shape
    match config.data, config.model:
        case _, (DiTConfig() | BlockwiseConfig()) if len(shape) != 3:
            raise ValueError(f"data.path: its examples have shape {list(shape)}, which is no image; use an mlp model")
        case (
            _,
            (DiTConfig(patch_size=patch_size) | BlockwiseConfig(patch_size=patch_size)),
        ) if shape[1] % patch_size or shape[2] % patch_size:
            pixels = " x ".join(map(str, sorted(set(shape[1:]))))
            raise ValueError(
                f"model.patch_size: {patch_size} does not divide images of {pixels} pixels; "
                f"use one of {divisors(math.gcd(*shape[1:]))}"
            )
        case _, AutoencoderConfig() if len(shape) != 3:
            raise ValueError(f"data.path: its examples have shape {list(shape)}, which is no image; give images")
        case _, AutoencoderConfig(factor=factor) if shape[1] % factor or shape[2] % factor:
            pixels = " x ".join(map(str, sorted(set(shape[1:]))))
            raise ValueError(
                f"model.factor: {factor} does not divide images of {pixels} pixels; "
                f"use one of {divisors(math.gcd(*shape[1:], 16))}"
            )
        case _, (MLPConfig(kind=kind) | BlockwiseMLPConfig(kind=kind)) if len(shape) != 1 or shape[0] < 2:
            raise ValueError(
                f"data.path: its examples have shape {list(shape)}, and an {kind} takes vectors of 2 values or more; "
                "use a dit model for images"
            )
        case OwnDataset(class_path=path), GPTConfig(context=longest) if len(shape) != 1 or shape[0] > longest + 1:
            raise ValueError(
                f"data.class: the examples of {path} have shape {list(shape)}, and a gpt takes windows of at most "
                f"model.context + 1 = {longest + 1} tokens; give such windows"
            )
        case PythonSourceConfig(context=context), GPTConfig(context=longest) if context > longest:
            raise ValueError(
                f"data.context: {context} exceeds model.context {longest}, the longest sequence of the network; "
                f"use at most {longest}"
            )
