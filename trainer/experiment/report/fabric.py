"""The part about a simulation: how long a step takes on a fabric, by transport."""

from dataclasses import dataclass
from pathlib import Path

from moe.collective_trace import PHASES, ROLLOUT
from netsim.foundation.page import Block, Figure, Section, Table
from trainer.experiment.report.part import Part
from trainer.experiment.report.simulation import Simulation

NS_PER_MS = 1e6
_PICTURES = (
    ("completion.svg", "When the last message has arrived, by transport."),
    ("phases.svg", "What a step spends on rollouts, by which it collects what it learns from, and on learning."),
    ("operations.svg", "Time that a rank spends in the collectives of each operation, waiting for others included."),
    ("links.svg", "How busy every link of the fabric is, with the slowest and the fastest transport."),
    ("queues.svg", "Longest queue at any switch, as the time that its link needs to send it."),
)


def fabric_part(folder: Path, simulation: Simulation, *, of_the_run: bool) -> Part:
    """Times, queues and links of a simulation; times are those of one optimiser step.

    Traffic of another run is marked as such and claims nothing on top.
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
    rollouts = Rollouts.of(simulation)
    if rollouts is not None:
        blocks.append(rollouts.table)
        rows.append((f"rollouts in the simulated step, {rollouts.transport}", rollouts.shares))
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
    if rollouts is not None:
        facts.append(("Rollouts", f"{rollouts.time:.0%}", "of the simulated step's time"))
        said = f"rollouts take {rollouts.shares} of the simulated step"
        finding = f"{finding}; {said}" if finding else said
    if of_the_run:
        return Part(rows, facts, [Section("The step on the fabric", blocks, text)], finding)
    ranks = max((collective.ranks for collective in simulation.collectives), default=0)
    size = f" of {ranks} ranks" if ranks else ""
    remark = f"This is not the run above: the traffic of another one{size}, to show what a fabric does to it. {text}"
    rows = [(f"another run, {name}", value) for name, value in rows]
    return Part(rows, [], [Section(f"On a fabric: another run{size}", blocks, remark)])


@dataclass(frozen=True)
class Rollouts:
    """Shares (0 to 1) of time and bytes of the rollouts of simulated steps, with the transport that completes first."""

    transport: str
    time: float
    payload: float
    table: Table

    @classmethod
    def of(cls, simulation: Simulation) -> "Rollouts | None":
        """Adds up the phases of a simulation; None: it has no rollouts, or does not tell of phases."""
        payloads = simulation.phase_bytes()
        if ROLLOUT not in payloads:
            return None
        packets = [name for name, runs in simulation.by_transport().items() if runs[0].engine != "fluid"]
        transport = min(packets or simulation.by_transport(), key=simulation.mean_completion_ns)
        times = simulation.phase_times_ns(transport)
        whole, payload = sum(times.values()) or 1.0, sum(payloads.values()) or 1
        order = [*(phase for phase in PHASES if phase in payloads), *sorted(payloads.keys() - set(PHASES))]
        steps = simulation.steps
        cells = [
            (
                phase,
                f"{times[phase] / NS_PER_MS / steps:.3f}",
                f"{times[phase] / whole:.1%}",
                f"{payloads[phase] / 1e6 / steps:,.1f}",
                f"{payloads[phase] / payload:.1%}",
            )
            for phase in order
        ]
        caption = (
            f"Phases of one step under {transport}. Rollouts are calls of the network by which a step collects what it "
            "learns from; each collective counts from the end of the one before it."
        )
        columns = ("phase", "ms", "of the time", "MB", "of the bytes")
        return cls(transport, times[ROLLOUT] / whole, payloads[ROLLOUT] / payload, Table(columns, cells, caption))

    @property
    def shares(self) -> str:
        """Both shares in words."""
        return f"{self.time:.1%} of the time and {self.payload:.1%} of the bytes"
