"""What is asked of an evaluation."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """What is measured of a run, and where it is written.

    Attributes:
        run_dir: folder of the run.
        evaluations: numbers of function evaluations, each 1 or more.
        num: samples of each set.
        seed: of all draws.
        likelihood: held-out examples whose likelihood is computed; 0: none.
        data_from: folder of the run whose data are the real ones; None: the run's own.
        out: JSON to write.
        page: HTML to write; None: none.
    """

    run_dir: Path
    evaluations: tuple[int, ...]
    num: int
    seed: int
    likelihood: int
    data_from: Path | None
    out: Path
    page: Path | None
