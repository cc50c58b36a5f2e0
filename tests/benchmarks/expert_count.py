"""What a further expert costs a step beyond its arithmetic: python -m tests.benchmarks.expert_count [--out FILE]

A small DiT with three mixture layers on DeepSpeed, one rank and one thread, ZeRO 0, 1 and 2: once with few experts and
once with many, which see the same tokens. The two take turns of some steps within each round, in random order, and CPU
time counts. Printed are the times of a step and what each further expert matrix adds: to everything, and to each part
of a step. The forward and backward passes visit more experts where there are more, with fewer rows for each; the rest
of a step knows experts only as parameters.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import torch

from tests.ranks import run_ranks
from trainer.config.run import RunConfig

LAYERS, MATRICES = 3, 2
STAGES = (0, 1, 2)
PARTS = ("forward", "backward", "step", "average")
Turn = Callable[[int], dict[str, float]]
"""Takes so many optimiser steps and returns the CPU seconds of each part of one."""


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, nargs=2, default=(8, 256), help="of a layer: few and many")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5, help="optimiser steps of a turn")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the figures go, as JSON")
    given = parser.parse_args()
    few, many = given.experts
    figures = [figure(stage, few, many, given.rounds, given.steps) for stage in STAGES]
    for shown in figures:
        print_figure(shown)
    print(f"load average {os.getloadavg()[0]:.2f}")
    if given.out:
        given.out.write_text(json.dumps({"cases": figures, "load_average": os.getloadavg()[0]}, indent=1) + "\n")


def figure(stage: int, few: int, many: int, rounds: int, steps: int) -> dict[str, Any]:
    """What one ZeRO stage shows.

    Args:
        stage: of ZeRO.
        few: experts of a layer.
        many: the same of the larger network.
        rounds: turns of each.
        steps: optimiser steps of a turn.
    """
    turns = run_ranks(measure, 1, stage, (few, many), rounds, steps)[0]
    added = MATRICES * LAYERS * (many - few)
    ms = {
        count: {part: 1e3 * median(turn[part] for turn in of_count) for part in PARTS}
        for count, of_count in turns.items()
    }
    total = {count: 1e3 * median(sum(turn.values()) for turn in of_count) for count, of_count in turns.items()}
    return {
        "zero_stage": stage,
        "experts": [few, many],
        "ms_a_step": {str(count): value for count, value in total.items()},
        "ratio": total[many] / total[few],
        "ms_a_matrix": (total[many] - total[few]) / added,
        "ms_a_matrix_by_part": {part: (ms[many][part] - ms[few][part]) / added for part in PARTS},
    }


def print_figure(shown: dict[str, Any]) -> None:
    """Prints one ZeRO stage."""
    few, many = shown["experts"]
    before, after = shown["ms_a_step"][str(few)], shown["ms_a_step"][str(many)]
    parts = ", ".join(f"{part} {value:.4f}" for part, value in shown["ms_a_matrix_by_part"].items())
    print(
        f"ZeRO {shown['zero_stage']}: {few} experts {before:.1f} ms a step, {many} experts {after:.1f} ms "
        f"({shown['ratio']:.2f} x); {shown['ms_a_matrix']:.4f} ms for each further matrix ({parts})"
    )


def measure(
    _rank: int, world_size: int, stage: int, counts: tuple[int, int], rounds: int, steps: int
) -> dict[int, list[dict[str, float]]]:
    """CPU seconds of a step's parts in each turn, by the number of experts."""
    from megatron.core import parallel_state

    torch.set_num_threads(1)
    parallel_state.initialize_model_parallel()
    turns = {count: build(configuration(stage, count), world_size) for count in counts}
    found: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    order = Random(stage)
    for turn in turns.values():
        turn(2)
    for _ in range(rounds):
        for count in order.sample(counts, len(counts)):
            found[count].append(turns[count](steps))
    return found


def configuration(stage: int, experts: int) -> RunConfig:
    """A network that is small but for its number of experts."""
    return RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"hidden": 16, "num_layers": LAYERS, "num_heads": 4},
            "moe": {"num_experts": experts, "expert_hidden": 8, "router": {"kind": "top_k"}},
            "optim": {"steps": 1, "global_batch": 8},
            "engine": {"zero_stage": stage},
        }
    )


def build(config: RunConfig, world_size: int) -> Turn:
    """A network on its engine, with the moving average of its weights."""
    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.engine import build_engine
    from trainer.distributed.engine.ema import MovingAverage
    from trainer.flow import Condition
    from trainer.model.build import build_model

    layout = plan_layout(config, world_size)
    engine = build_engine(build_model(config, layout), config, layout, torch.device("cpu"))
    average = MovingAverage(engine, 0.999)
    generator = torch.Generator().manual_seed(0)
    x_t, t = torch.randn(8, 1, 8, 8, generator=generator), torch.rand(8, generator=generator)

    def turn(steps: int) -> dict[str, float]:
        spent: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        for step in range(1, steps + 1):
            with timed(spent, "forward"):
                loss = (engine.model(x_t, t, Condition(torch.arange(8))) - x_t).square().mean()
            with timed(spent, "backward"):
                engine.backward(loss)
            with timed(spent, "step"):
                engine.step(1e-3, lambda _: None)
            with timed(spent, "average"):
                average.update(step)
        return {part: seconds / steps for part, seconds in spent.items()}

    return turn


@contextmanager
def timed(spent: dict[str, float], part: str) -> Iterator[None]:
    """Adds the CPU time of what it encloses."""
    began_s = time.process_time()
    yield
    spent[part] += time.process_time() - began_s


if __name__ == "__main__":
    main()
