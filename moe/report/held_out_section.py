"""The section of the report about tokens that the solver did not see."""

from moe.placement.cost.evaluation import Evaluation
from moe.report.context import HeldOut
from moe.report.page import Section, Table
from moe.report.summary import share_saved


def held_out_section(before: Evaluation, placed: Evaluation, held_out: HeldOut, unit: str, name: str) -> Section:
    """Compose the section.

    Args:
        before: Traffic of the solver's tokens under the placement in use.
        placed: The same under the new placement.
        held_out: Traffic of the other tokens.
        unit: Unit of cost.
        name: Name of the placement in use.

    Returns:
        A table of both sets of tokens; the title says what of the saving remains.
    """
    pairs = ((before, placed), (held_out.before, held_out.placed))
    seen, unseen = (share_saved(*pair) for pair in pairs)
    every = [traffic for pair in pairs for traffic in pair]
    rows = [
        ("tokens", *(f"{traffic.num_tokens:,}" for traffic in every)),
        (f"cost per token [{unit}]", *(f"{traffic.cost:.4g}" for traffic in every)),
        ("moves of a token to other ranks", *(f"{traffic.crossings:.4g}" for traffic in every)),
        ("busiest rank, mean over the layers", *(f"{traffic.imbalance.mean():.3f}" for traffic in every)),
        ("busiest rank, worst layer", *(f"{traffic.imbalance.max():.3f}" for traffic in every)),
    ]
    columns = ["", f"solved on: {name}", "placed", f"held out: {name}", "placed"]
    text = (
        f"The placement was made from other tokens than those of {held_out.source}, which tell what to expect: it "
        f"saves {unseen:.1%} there, {seen:.1%} on its own trace."
    )
    table = Table(columns, rows, best=[(1, 4), (3, 4)])
    change = f"{unseen:.0%} is saved" if unseen > -0.005 else f"the cost rises by {-unseen:.0%}"
    return Section(f"On tokens that the solver did not see, {change}", (table,), text)
