"""The request for a report: its input files and its page."""

from dataclasses import dataclass, replace
from pathlib import Path

PAGE = "report.html"
"""The page, in the run's folder."""
FOUND = {
    "quality": ("quality.json", ""),
    "steps": ("steps.json", ""),
    "drawing": ("drawing", "formula.jsonl"),
    "restored": ("restored", "results.json"),
    "edited": ("edited", "results.json"),
    "placement": ("placement.json", ""),
    "price": ("price", "price.json"),
    "simulation": ("simulation", "results.json"),
    "other_simulation": ("netsim", "results.json"),
    "comparison": ("comparison", "compare.json"),
}
"""Where each input is in a run's folder, and a file that is in it if it is a folder."""


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """Files of a report, and its page; None: the file of the run's folder by the name in `FOUND`, or nothing."""

    run_dir: Path
    memory: bool = False
    quality: Path | None = None
    steps: Path | None = None
    drawing: Path | None = None
    restored: Path | None = None
    edited: Path | None = None
    policy: Path | None = None
    placement: Path | None = None
    routing: Path | None = None
    unplaced_run: Path | None = None
    placed_run: Path | None = None
    price: Path | None = None
    decoding: Path | None = None
    simulation: Path | None = None
    other_simulation: Path | None = None
    comparison: Path | None = None
    out: Path | None = None

    @property
    def page(self) -> Path:
        """The page to write."""
        return self.out or self.run_dir / PAGE

    def found(self) -> dict[str, Path]:
        """The inputs that are not given and that the run's folder has."""
        places = {name: self.run_dir / place for name, (place, _) in FOUND.items() if getattr(self, name) is None}
        return {name: path for name, path in places.items() if (path / FOUND[name][1]).is_file()}

    def having(self, inputs: dict[str, Path]) -> "ReportRequest":
        """The request with more inputs."""
        return replace(self, **inputs)  # pyright: ignore[reportArgumentType]  the values are paths
