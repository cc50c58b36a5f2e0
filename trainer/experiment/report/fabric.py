"""The part about a simulation: how long a step takes on a fabric, by transport."""

from pathlib import Path

from moe.report.page import Block, Figure, Section, Table
from trainer.experiment.report.part import Part
from trainer.experiment.report.simulation import Simulation

NS_PER_MS = 1e6
_PICTURES = (
    ("completion.svg", "When the last message has arrived, by transport."),
    ("operations.svg", "Time that a rank spends in the collectives of each operation, waiting for others included."),
    ("links.svg", "How busy every link of the fabric is, with the slowest and the fastest transport."),
    ("queues.svg", "Longest queue at any switch, as the time that its link needs to send it."),
)


def fabric_part(folder: Path, simulation: Simulation, *, of_the_run: bool) -> Part:
    """Times, queues and links of a simulation; times are those of one optimiser step.

    Args:
        folder: what ``netsim compare`` wrote.
        simulation: what was read there.
        of_the_run: whether the traffic is the run's own; another's is marked as such and claims nothing on top.
    """
    steps = simulation.steps
    means = {name: simulation.mean_completion_ns(name) / steps for name in simulation.by_transport()}
    bound = min(run.bound_ns for run in simulation.runs) / steps
    span = "simulated step" if steps == 1 else f"simulated step, mean of {steps}"
    rows, cells = [], []
    for name, runs in simulation.by_transport().items():
        completions = [run.completion_ns / NS_PER_MS / steps for run in runs]
        low, high, ratio = min(completions), max(completions), means[name] / bound
        rows.append((f"{span}, {name}", f"{means[name] / NS_PER_MS:.3f} ms, {ratio:.3f} x bound"))
        cells.append(
            (
                name,
                "flow" if runs[0].engine == "fluid" else "packet",
                f"{means[name] / NS_PER_MS:.3f}",
                f"{low:.3f} to {high:.3f}",
                f"{ratio:.3f}",
                f"{max(run.max_queue_bytes for run in runs) / 1e6:.2f}",
                f"{max(run.reordered_packets for run in runs):,}",
            )
        )
    blocks: list[Block] = [
        Figure((folder / "figures" / name).read_text(encoding="utf-8"), caption)
        for name, caption in _PICTURES
        if (folder / "figures" / name).exists()
    ]
    columns = ("transport", "level", "mean ms", "over seeds, ms", "x bound", "longest queue, MB", "reordered packets")
    caption = "Time of one step. Lossless fabric without congestion control; the bound holds for every transport."
    blocks.append(Table(columns, cells, caption))
    hops = max(run.packet_hops for run in simulation.runs)
    amount = "one step" if steps == 1 else f"{steps} steps, one after the other,"
    text = f"The collectives of {amount} replayed in program order, at most {hops:,} packet-hops a run."
    facts, finding = [], ""
    if {"ecmp", "ethereal"} <= means.keys():
        behind, where, aside = means["ecmp"] / means["ethereal"] - 1, "step", ""
        exchange = simulation.behind("ecmp", "ethereal", "all_to_all")
        if exchange is not None:
            ecmp, ethereal = (
                simulation.mean_time_ns(name, "all_to_all") / NS_PER_MS / steps for name in ("ecmp", "ethereal")
            )
            ranks = max(collective.ranks for collective in simulation.collectives if collective.op == "all_to_all")
            rows.append(("all-to-alls of the step", f"ecmp {exchange:+.1%} against ethereal"))
            text += (
                f" A rank spends {ecmp:.3f} ms of a step in the all-to-alls of {ranks} ranks under ecmp and "
                f"{ethereal:.3f} ms under ethereal, waiting for others included: ecmp is {abs(exchange):.0%} "
                f"{'behind' if exchange > 0 else 'ahead'}."
            )
            aside = f", {behind:+.0%} over the whole of it"
            behind, where = exchange, "all-to-alls of the step"
        facts.append(("ecmp behind ethereal", f"{behind:+.0%}", f"on the {where}"))
        finding = f"on the simulated fabric ecmp is {behind:.0%} behind ethereal on the {where}{aside}"
        finding = finding if behind > 0 else "on the simulated fabric ecmp is not behind ethereal"
    if of_the_run:
        return Part(rows, facts, [Section("The step on the fabric", blocks, text)], finding)
    ranks = max((collective.ranks for collective in simulation.collectives), default=0)
    size = f" of {ranks} ranks" if ranks else ""
    remark = f"This is not the run above: the traffic of another one{size}, to show what a fabric does to it. {text}"
    rows = [(f"another run, {name}", value) for name, value in rows]
    return Part(rows, [], [Section(f"On a fabric: another run{size}", blocks, remark)])
