"""Costs that ask of a network what it does not tell."""

from trainer.config.run import RunConfig
from trainer.flow import cost


def check_cost(config: RunConfig, chosen: cost.AnyConfig, field: str) -> None:
    """Refuses a cost of states that cannot be computed with the network of a run.

    Args:
        config: the run.
        chosen: the cost.
        field: where it is written, such as ``sample.controls.0.cost``.

    Raises:
        ValueError: names field, value and remedy.
    """
    if not isinstance(chosen, cost.AttentionConfig):
        return
    network = config.model
    if not network.tells_attention:
        raise ValueError(
            f"{field}.kind: attention is what a dit tells of its patches, and a network of kind {network.kind} does "
            "not; use a dit, or a cost of your own by class"
        )
    num_patches = network.tokens(config.state_shape)
    for name, numbers, num, whole in (
        ("subjects", [patch for subject in chosen.subjects for patch in subject], num_patches, "patches of a state"),
        ("blocks", chosen.blocks or (), network.num_layers, "blocks of the network"),
    ):
        if numbers and max(numbers) >= num:
            raise ValueError(
                f"{field}.{name}: {max(numbers)} is not among the {num} {whole}; use numbers from 0 to {num - 1}"
            )
