"""What is asked of a comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """A comparison, in the words of its command line.

    Attributes:
        words: configurations of methods, and ``dotted.key=value``.
        base: configuration that data, model and budget are taken from.
        out: folder of the comparison.
        seeds: runs of each method, 1 or more.
        ranks: of each run, 1 or more.
        jobs: runs that are trained at a time, 1 or more.
        evaluations: numbers of function evaluations, each 1 or more.
        num: samples of each set, 2 or more.
    """

    words: Sequence[str]
    base: Path
    out: Path
    seeds: int
    ranks: int
    jobs: int
    evaluations: tuple[int, ...]
    num: int

    def check(self) -> None:
        """Refuses numbers that are too small.

        Raises:
            ValueError: names the option, the value and the remedy.
        """
        options = {
            "--seeds": (self.seeds, 1),
            "--nproc": (self.ranks, 1),
            "--jobs": (self.jobs, 1),
            "--num": (self.num, 2),
        }
        for name, (value, least) in options.items():
            if value < least:
                raise ValueError(f"{name}: {value} is below {least}; use {least} or more")

    @property
    def command(self) -> list[str]:
        """The command line that asks for it, behind ``python -m trainer``."""
        choices = {"base": self.base, "seeds": self.seeds, "nproc": self.ranks, "jobs": self.jobs, "num": self.num}
        choices |= {"evaluations": ",".join(map(str, self.evaluations)), "out": self.out}
        return ["compare", *self.words, *(f"--{name}={value}" for name, value in choices.items())]
