"""A feature extractor that a network learns from."""

from pathlib import Path

from torch import Tensor

from netsim.foundation.refusal import Refusal
from trainer.config.derived import tokens_per_example
from trainer.config.model import BlockwiseConfig
from trainer.config.run import RunConfig
from trainer.flow.objective import Aligned
from trainer.flow.objective.regression import tokens_of
from trainer.model.feature_extractor.extractor import (
    Extractor,
    check_extractor,
    describe_extractor,
    feature_shape,
    read_extractor,
)


class Teacher:
    """Computes features of examples on their device; the file is read at the first call."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[str, Extractor] | None = None

    def __call__(self, examples: Tensor) -> Tensor:
        """Features [N, F], or [N, F, rows, columns] where the extractor keeps places, of examples [N, *D]."""
        device = examples.device
        if self._read is None or self._read[0] != str(device):
            self._read = str(device), read_extractor(self._path, device)
        return self._read[1](examples)


def check_teacher(config: RunConfig) -> None:
    """Refuses a teacher whose features have another shape than the network's projections."""
    if config.flow is None or not isinstance(config.flow.objective, Aligned):
        return
    assert isinstance(config.model, BlockwiseConfig)
    path, wanted = config.flow.objective.teacher, config.model.teacher_features
    check_extractor(path, config.state_shape)
    shape = feature_shape(path)
    if shape[0] != wanted:
        remedy = f"set model.teacher_features={shape[0]}"
        raise Refusal(path, "layers", f"give {shape[0]} features but the run has {wanted}", remedy)
    tokens = tokens_per_example(config)
    if tokens_of(shape) not in (None, tokens):
        problem = f"give features of {list(shape[1:])} places but the network has {tokens} tokens"
        raise Refusal(path, "layers", problem, "give one with a place for each token, or one vector for an example")


def describe_teacher(config: RunConfig) -> str | None:
    """One line for a person: the teacher's features and its memory on each rank; None if absent."""
    if config.flow is None or not isinstance(config.flow.objective, Aligned):
        return None
    return f"teacher {describe_extractor(config.flow.objective.teacher)} on each rank"
