"""Every router on handwritten digits: does balance cost accuracy, and does a capacity cost tokens?

One mixture-of-experts layer (width 32, 8 experts, capacity 1.25) between two linear layers, 300 Adam steps, batch 256.
An image is a token. There is no residual path: the network around the experts is linear and would carry a dropped image
nearly as well. At the test no router has a capacity. Run by

    python -m tests.benchmarks.digits_routers [--seeds 0 1 2] [--out digits_routers.json]
"""

import argparse
import json
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from moe.config import (
    BaseAssignmentRouterConfig,
    ExpertChoiceRouterConfig,
    MoEConfig,
    RouterConfig,
    SinkhornRouterConfig,
    SparseOTRouterConfig,
    TopKRouterConfig,
)
from moe.seeds import derive_seed
from netsim.foundation.files import replacing
from trainer.distributed.groups import Launch, joined

WIDTH, EXPERTS, HIDDEN, CAPACITY = 32, 8, 32, 1.25
STEPS, BATCH, LEARNING_RATE, LAST = 300, 256, 3e-3, 100
TRAIN = 1000
ROUTERS: dict[str, RouterConfig] = {
    "top-1": TopKRouterConfig(aux_loss=0.0, capacity_factor=CAPACITY),
    "top-1, auxiliary loss 0.01": TopKRouterConfig(aux_loss=0.01, capacity_factor=CAPACITY),
    "top-1, auxiliary loss 0.1": TopKRouterConfig(aux_loss=0.1, capacity_factor=CAPACITY),
    "top-1, loss-free bias": TopKRouterConfig(score="sigmoid", aux_loss=0.0, capacity_factor=CAPACITY, bias_rate=0.01),
    "sinkhorn": SinkhornRouterConfig(),
    "base": BaseAssignmentRouterConfig(),
    "expert choice": ExpertChoiceRouterConfig(),
    "sparse OT": SparseOTRouterConfig(capacity_factor=CAPACITY),
}


@dataclass(frozen=True)
class Outcome:
    """One router and seed.

    Attributes:
        router: its name here.
        seed: of the split, the weights and the batches.
        accuracy: on the test images.
        load: largest load over an even share of the batch, averaged over the last steps.
        worst_load: the same, largest of all steps.
        dropped: share of the images that no expert took, averaged over the last steps.
        worst_dropped: the same, largest of all steps.
        cpu_s: process time of training.
    """

    router: str
    seed: int
    accuracy: float
    load: float
    worst_load: float
    dropped: float
    worst_dropped: float
    cpu_s: float


class Classifier(nn.Module):
    """A linear layer, a norm, a mixture of experts, a linear layer."""

    def __init__(self, router: RouterConfig, seed: int) -> None:
        """Builds the network on the process groups of this process.

        Args:
            router: how images find their experts.
            seed: of the initial weights.
        """
        from moe.layer import PlacedMoELayer, transformer_config

        super().__init__()
        config = MoEConfig(num_experts=EXPERTS, expert_hidden=HIDDEN, router=router)
        megatron = transformer_config(
            config, hidden=WIDTH, num_layers=1, num_heads=1, expert_parallel=1, dtype=torch.float32
        )
        torch.manual_seed(derive_seed(seed, "linear layers"))
        self.embed = nn.Linear(64, WIDTH)
        self.mixture = PlacedMoELayer(config, megatron, layer=0, seed=seed, slot_to_expert=np.arange(EXPERTS))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """Class scores [T, 10] of pixels [T, 64]."""
        tokens = nn.functional.layer_norm(self.embed(pixels), [WIDTH])
        return self.head(self.mixture(tokens[:, None])[:, 0])


def train(name: str, seed: int, steps: int = STEPS) -> Outcome:
    """Trains one network.

    Args:
        name: key of ``ROUTERS``.
        seed: of the split, the weights and the batches.
        steps: Adam steps.

    Returns:
        What came of it.
    """
    pixels, labels, order = _digits(seed)
    network = Classifier(ROUTERS[name], seed)
    router = network.mixture.router
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    batches = torch.Generator().manual_seed(derive_seed(seed, "batches"))
    loads, drops = [], []
    begun = time.process_time()
    for _ in range(steps):
        batch = order[:TRAIN][torch.randperm(TRAIN, generator=batches)[:BATCH]]
        loss = nn.functional.cross_entropy(network(pixels[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        router.update_bias()
        report = router.report()
        loads.append(float(report["expert_tokens"].max()) * EXPERTS / BATCH)
        drops.append(float(report["dropped_choices"]) / BATCH)
    cpu_s = time.process_time() - begun
    served = Classifier(_without_capacity(ROUTERS[name]), seed).eval()
    served.load_state_dict(network.state_dict())
    test = order[TRAIN:]
    with torch.no_grad():
        correct = served(pixels[test]).argmax(dim=1) == labels[test]
    return Outcome(
        name,
        seed,
        float(correct.float().mean()),
        fmean(loads[-LAST:]),
        max(loads),
        fmean(drops[-LAST:]),
        max(drops),
        cpu_s,
    )


def _without_capacity(router: RouterConfig) -> RouterConfig:
    return router.model_copy(update={"capacity_factor": None}) if isinstance(router, TopKRouterConfig) else router


def _digits(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(derive_seed(seed, "split")))
    return torch.from_numpy(pixels).float() / 8 - 1, torch.from_numpy(labels), order


def main() -> None:
    """Runs every router on every seed, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="JSON file of the outcomes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with joined(Launch(rank=0, local_rank=0, world_size=1, local_world_size=1), expert_parallel=1):
        outcomes = [train(name, seed) for name in ROUTERS for seed in arguments.seeds]
    table = Table(title=f"Digits, {EXPERTS} experts, {len(arguments.seeds)} seeds; loads over an even share")
    for heading in ("router", "accuracy %", "load, last steps", "load, worst step", "dropped %", "worst %", "CPU s"):
        table.add_column(heading, justify="left" if heading == "router" else "right")
    for name in ROUTERS:
        own = [outcome for outcome in outcomes if outcome.router == name]
        table.add_row(
            name,
            f"{100 * fmean(o.accuracy for o in own):.1f}",
            f"{fmean(o.load for o in own):.2f}",
            f"{max(o.worst_load for o in own):.2f}",
            f"{100 * fmean(o.dropped for o in own):.1f}",
            f"{100 * max(o.worst_dropped for o in own):.1f}",
            f"{fmean(o.cpu_s for o in own):.1f}",
        )
    Console(width=120).print(table)
    if arguments.out:
        with replacing(arguments.out) as temporary:
            temporary.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # Megatron's, of the packages it would like
    main()
