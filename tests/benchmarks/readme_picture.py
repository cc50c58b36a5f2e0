"""The picture of the root README, of a run that was placed: `python -m tests.benchmarks.readme_picture runs/first`."""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from moe.placement.placement import Placement
from moe.routing_trace import RoutingTrace

OUT = Path(__file__).parents[2] / "configs" / "first_run.png"
COLOURS = ("#4c6ef5", "#f59f00")


def main() -> None:
    """Draws what a run learned, what it draws, and how far its tokens travel under two placements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path, nargs="?", default=Path("runs/first"))
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    figure, (drawn, learned, placed) = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
    newest = max((options.run_dir / "samples").glob("step_*.png"))
    drawn.imshow(plt.imread(newest), cmap="gray", interpolation="nearest")
    drawn.set(title="train: pictures that the run draws", xticks=[], yticks=[])
    records = [json.loads(line) for line in (options.run_dir / "metrics.jsonl").read_text().splitlines()]
    learned.plot([record["step"] for record in records], [record["loss"] for record in records], color=COLOURS[0])
    held_out = [(record["step"], record["held_out_loss"]) for record in records if "held_out_loss" in record]
    learned.plot(*zip(*held_out, strict=True), "o-", color=COLOURS[1])
    learned.set(title="its loss (orange: held out)", xlabel="step")
    routing = RoutingTrace.read(options.run_dir / "traces" / "routing.npz")
    placement = Placement.read(options.run_dir / "placement.json")
    contiguous = Placement.contiguous(
        placement.num_layers, placement.num_experts, placement.num_nodes, placement.ranks_per_node, dispatch="copies"
    )
    layers = np.arange(placement.num_layers)
    for number, (name, one) in enumerate({"experts in order": contiguous, "placed": placement}.items()):
        placed.bar(layers + 0.38 * number, visited(routing, one), 0.36, color=COLOURS[number], label=name)
    placed.set(title="place: ranks that a token visits", xlabel="layer", ylim=(1, 2))
    placed.set_xticks(layers + 0.19, [str(layer) for layer in layers])
    placed.legend(loc="upper right")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=90, metadata={"Software": None})
    print(options.out)


def visited(routing: RoutingTrace, placement: Placement) -> list[float]:
    """Mean number of ranks that the experts of a token are on, by layer."""
    means = []
    for layer in range(placement.num_layers):
        slots = placement.slot_to_expert(layer)
        rank_of = np.empty(placement.num_experts, dtype=np.int64)
        rank_of[slots] = np.arange(len(slots)) // placement.slots_per_rank
        ranks = np.sort(rank_of[routing.expert_ids[:, layer]], axis=1)
        means.append(float(1 + (np.diff(ranks, axis=1) > 0).sum(1).mean()))
    return means


if __name__ == "__main__":
    main()
