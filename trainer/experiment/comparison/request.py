"""What is asked of a comparison."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.config.document import read_document
from trainer.experiment.comparison.cost import Fabric

FABRIC = Path("configs/scenarios/sampling_64.yaml")


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """A comparison, in the words of its command line.

    Attributes:
        words: configurations of methods, and ``dotted.key=value``.
        base: configuration that data, model and budget are taken from.
        seeds: runs of each method, 1 or more.
        jobs: runs that are trained at a time, 1 or more.
        fabric: scenario of netsim on which samples are priced; None: :data:`FABRIC`.
        fabric_ranks: that draw there, 1 or more.
        fabric_examples: that each of them draws at once, 1 or more.
        teraflops: arithmetic that a rank sustains there, TFLOP/s, above 0.
    """

    words: Sequence[str]
    base: Path
    out: Path
    seeds: int
    ranks: int
    jobs: int
    evaluations: tuple[int, ...]
    num: int
    fabric: Path | None
    fabric_ranks: int
    fabric_examples: int
    teraflops: float

    def check(self) -> None:
        """Refuses numbers that are too small, and a fabric that is none."""
        options = {
            "--seeds": (self.seeds, 1),
            "--nproc": (self.ranks, 1),
            "--jobs": (self.jobs, 1),
            "--num": (self.num, 2),
            "--fabric-ranks": (self.fabric_ranks, 1),
            "--fabric-examples": (self.fabric_examples, 1),
        }
        for name, (value, least) in options.items():
            if value < least:
                raise ValueError(f"{name}: {value} is below {least}; use {least} or more")
        if self.fabric is not None and "topology" not in read_document(self.fabric, "configs/scenarios"):
            raise ValueError(f"--fabric: {self.fabric} has no topology; give one of configs/scenarios")
        if not 0 < self.teraflops < math.inf:
            raise ValueError(f"--teraflops: {self.teraflops:g} is not a rate; use what a rank sustains, such as 400")

    @property
    def priced_on(self) -> Fabric:
        """The ranks that samples are priced on."""
        return Fabric(str(self.fabric or FABRIC), self.fabric_ranks, self.fabric_examples, self.teraflops)

    @property
    def command(self) -> list[str]:
        """The command line that asks for it, behind ``python -m trainer``."""
        choices = {"base": self.base, "seeds": self.seeds, "nproc": self.ranks, "jobs": self.jobs, "num": self.num}
        choices |= {"evaluations": ",".join(map(str, self.evaluations)), "fabric": self.fabric or FABRIC}
        choices |= {"fabric-ranks": self.fabric_ranks, "fabric-examples": self.fabric_examples}
        choices |= {"teraflops": f"{self.teraflops:g}", "out": self.out}
        return ["compare", *self.words, *(f"--{name}={value}" for name, value in choices.items())]
