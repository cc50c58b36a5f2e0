"""Examples that a network cannot take."""

from trainer.config.model import GPTConfig
from trainer.config.run import RunConfig
from trainer.data import OwnDataset, PythonSourceConfig, TextConfig, parts_of


def check_examples(config: RunConfig) -> None:
    """Refuses examples of a shape or length that the model does not take.

    Args:
        config: the run.

    Raises:
        ValueError: names field, value and remedy.
    """
    shape, model = config.state_shape, config.model
    model.check_states(shape)
    data = parts_of(config.data)[0]  # those of a mixture agree
    if isinstance(model, GPTConfig) and isinstance(data, PythonSourceConfig | TextConfig):
        needed = data.vocabulary
        if model.vocabulary < needed:
            raise ValueError(
                f"model.vocabulary: {model.vocabulary} is less than the {needed} tokens of the data; leave it out, or "
                f"use {needed} or more"
            )
    if not (isinstance(data, OwnDataset) and isinstance(model, GPTConfig)):
        return
    if len(shape) != 1 or shape[0] > model.context + 1:
        raise ValueError(
            f"data.class: the examples of {data.class_path} have shape {list(shape)}, and a gpt takes windows "
            f"of at most model.context + 1 = {model.context + 1} tokens; give such windows"
        )
