"""Factors of the learning rate, held against the parameters of the network that they are for."""

from difflib import get_close_matches

from trainer.config.run import RunConfig
from trainer.config.sections import fits
from trainer.model.build import parameter_shapes


def check_rates(config: RunConfig) -> None:
    """Refuses keys of `optim.rates` that fit no parameter; names what is near."""
    if not config.optim.rates:
        return
    names = list(parameter_shapes(config))
    for key in config.optim.rates:
        if any(fits(key, name) for name in names):
            continue
        parts = dict.fromkeys(part for name in names for part in name.split(".") if not part.isdigit())
        near = get_close_matches(key.rpartition(".")[2], parts, n=3) or list(parts)
        raise ValueError(
            f"optim.rates.{key}: no part of the name of a parameter begins so; use {', '.join(near)}, or remove it"
        )
