"""Flow-GRPO on digits, under torchrun: python -m tests.benchmarks.methods.grpo_digits

configs/methods/flow_grpo.yaml is trained on two ranks as it stands, for each seed: a flow over 8 x 8 digits, and the
policy that goes on from it with the log-probability of the requested class as its reward. Then 1,000 digits of
each are drawn from the averaged weights by the sampler of the runs, the classes in turn, from the same noises.

"reward" is the mean over them, FD their Fréchet distance on pixels to all digits, "path KL" that of the rollouts of the
last step from those of the base, in nats. The rival is the best of n of the base, with as many rewards for these 1,000
digits as the policy asked for in training; its KL is at most log n - (n - 1) / n.

Source: Liu et al., "Flow-GRPO", arXiv 2505.05470.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from netsim.foundation.run_reference import ReferenceConfig
from tests.benchmarks.methods.bars import Bar, by_figure, show
from tests.benchmarks.methods.immiscible import digits
from trainer.data import DigitsConfig, build
from trainer.evaluation.quality import frechet_distance
from trainer.flow import Condition
from trainer.flow.reward import Classifier
from trainer.observe.metrics import read_metrics
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.trained import Reference
from trainer.task.policy.policy import reward_of

CONFIG = "configs/methods/flow_grpo.yaml"
SEEDS = (10, 11, 12)
"""Others than 0 to 2, which the learning rate of the configuration was picked on."""
NUM, CLASSES = 1000, 10
Figures = dict[str, dict[str, float]]


def trained(folder: Path, seed: int, changes: list[str]) -> None:
    """Trains base and policy on two ranks, unless they are there."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trainer"]
    words = ["train", CONFIG, f"run.dir={folder}", f"run.seed={seed}", *changes]
    subprocess.run([*launch, *words], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, stdout=sys.stderr)


def drawn(flow: TrainedFlow, num: int) -> tuple[Tensor, Tensor]:
    """So many digits, and their classes."""
    labels = torch.arange(num) % CLASSES
    parts = torch.arange(num).split(500)
    states = [
        flow.follow(Condition(labels), own, flow.sample.sampler, guidance=flow.sample.guidance, seed=7).final
        for own in parts
    ]
    return flow.parts.space.decode(torch.cat(states)), labels


def run(folder: Path) -> Figures:
    """The figures of one seed."""
    device = torch.device("cpu")
    base, policy = (Reference.of_run(ReferenceConfig(run=folder / name)).flow(device) for name in ("base", "policy"))
    worth = reward_of(policy.config, Classifier(), policy.parts.space)
    real = build(DigitsConfig()).get(torch.arange(1797))
    assert real.labels is not None
    pixels = digits(centred=False).numpy()
    last = [record.values for record in read_metrics(folder / "policy" / "metrics.jsonl")][-1]
    tries = max(2, round(last["reward_calls"] / NUM))
    many, labels = drawn(base, tries * NUM)

    def figures(examples: Tensor, labels: Tensor) -> dict[str, float]:
        reward = float(worth(examples, Condition(labels)).mean())
        return {"reward": reward, "FD": frechet_distance(examples.flatten(1).numpy(), pixels)}

    rewards = worth(many, Condition(labels)).view(tries, NUM)
    best = many.unflatten(0, (tries, NUM))[rewards.argmax(0), torch.arange(NUM)]
    halves = torch.randperm(1797, generator=torch.Generator().manual_seed(0)).chunk(2)
    floor = frechet_distance(pixels[halves[0]], pixels[halves[1]])
    spent = {name: last[key] for name, key in (("reward calls", "reward_calls"), ("network calls", "network_calls"))}
    return {
        "real digits": {**figures(real.x_1, real.labels), "FD": floor},
        "base": {**figures(*drawn(base, NUM)), "path KL": 0.0, "reward calls": 0.0},
        "policy": {**figures(*drawn(policy, NUM)), "path KL": last["path_kl"], **spent},
        f"base, best of {tries}": {
            **figures(best, labels[:NUM]),
            "path KL": math.log(tries) - (tries - 1) / tries,
            "reward calls": float(tries * NUM),
            "network calls": float(tries * NUM * 10),
        },
    }


def main() -> int:
    """Trains, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="default: 10 11 12")
    parser.add_argument("--folder", type=Path, help="where the runs are kept, and go on; default: a temporary one")
    parser.add_argument("changes", nargs="*", help="settings in place of those of the file, dotted.key=value")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        kept = options.folder or Path(temporary)
        for seed in options.seeds:
            trained(kept / f"seed_{seed}", seed, options.changes)
        of_seeds = [run(kept / f"seed_{seed}") for seed in options.seeds]
    rows = by_figure(of_seeds)
    rises = [figures["policy"]["reward"] - figures["base"]["reward"] for figures in of_seeds]
    ratios = [figures["policy"]["FD"] / figures["base"]["FD"] for figures in of_seeds]
    return show(
        "a policy on digits",
        rows,
        [
            Bar("smallest rise of the reward, in nats", min(rises), 1.0, at_least=True),
            Bar("FD over that of the base, mean", fmean(ratios), 1.5),
            Bar("FD over that of the base, largest", max(ratios), 1.5),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
