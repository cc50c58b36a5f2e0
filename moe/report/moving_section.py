"""The section of the report about experts that change rank, and the bytes of their move."""

import numpy as np

from moe.report.context import Moving
from moe.report.page import Facts, Figure, Section, Table
from moe.report.traffic_figures import arrivals_by_layer

_MOST_LISTED = 400


def moving_section(num_layers: int, moving: Moving, unit: tuple[str, float], steps: float | None) -> Section:
    """Compose the section.

    Args:
        num_layers: MoE layers.
        moving: Experts that move.
        unit: Unit of bytes, and its size in bytes.
        steps: Training steps whose saved bytes are as many as the move sends; None if unknown or never.

    Returns:
        Numbers of experts and bytes, and the new rank of each moving expert.
    """
    counts = np.bincount([layer for layer, _, _ in moving.arrivals], minlength=num_layers)
    share = len(moving.arrivals) / moving.experts
    of = f"against the {moving.against} placement, ranks renamed where that is free"
    facts = [("Experts that move", f"{len(moving.arrivals):,}", f"{share:.0%} of {moving.experts:,}; {of}")]
    if moving.total_bytes is not None:
        size = f"{moving.expert_parameters:,} parameters x {moving.parameter_bytes} B each"
        facts.append(("Bytes to move", f"{moving.total_bytes / unit[1]:,.3g} {unit[0]}", size))
        if steps is not None:
            facts.append(
                ("Steps to pay back", f"{steps:,.3g}", "bytes to move / bytes that a step saves between ranks")
            )
    else:
        facts.append(("Bytes a parameter", f"{moving.parameter_bytes} B", "give --expert-parameters for the sum"))
    text = (
        "What travels with an expert: its weights, both moments of the optimiser, and the fp32 master copy where the "
        "weights are narrower."
    )
    if not moving.arrivals:
        return Section("No expert has to move", (Facts(facts),), text)
    picture = Figure(arrivals_by_layer(counts, moving.experts // num_layers), "Experts of each layer that change rank.")
    title = "Most experts have to move" if share > 0.5 else f"{share:.0%} of the experts have to move"
    if len(moving.arrivals) > _MOST_LISTED:
        text += " The numbers beside this page (.report.json) list every move."
        return Section(title, (Facts(facts), picture), text)
    rows = [
        (
            f"layer {layer}",
            ", ".join(f"{expert}→{rank}" for at, expert, rank in moving.arrivals if at == layer) or "none",
        )
        for layer in range(num_layers)
    ]
    table = Table(("layer", "expert → rank that it comes to"), rows, words=True)
    return Section(title, (Facts(facts), picture, table), text)
