"""The file of sample quality that sample --quality writes, and the figures of it that are shown."""

import math
from pathlib import Path

from netsim.foundation.documents import parse_json
from netsim.foundation.refusal import Refusal

DISTANCES = {
    "sliced_wasserstein": "sliced Wasserstein",
    "mmd": "squared maximum mean discrepancy",
    "energy_distance": "energy distance",
    "frechet_distance": "Fréchet distance on values",
    "frechet_distance_on_features": "Fréchet distance on features",
    "precision_on_features": "precision on features",
    "recall_on_features": "recall on features",
}


def read_judgement(path: Path, run_sha256: str | None = None) -> dict[str, float]:
    """Reads the figures of ``sample --quality`` by name; refuses those of another run, where both are known."""
    remedy = "write it with sample --quality"
    try:
        figures = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refusal(path, "file", f"cannot be read ({error.strerror})", remedy) from error
    except ValueError as error:
        raise Refusal(path, "document", f"is not JSON ({error})", remedy) from error
    accuracy, distance = (
        figures.get(name, default) if isinstance(figures, dict) else None
        for name, default in (("class_accuracy", 0.0), ("frechet_distance_unguided", None))  # data may have no classes
    )
    if not isinstance(accuracy, int | float) or not 0 <= accuracy <= 1:
        raise Refusal(path, "class_accuracy", f"is not between 0 and 1 ({accuracy})", remedy)
    if not isinstance(distance, int | float) or not 0 <= distance < math.inf:
        raise Refusal(path, "frechet_distance_unguided", f"is not a number of 0 or more ({distance})", remedy)
    assert isinstance(figures, dict)
    figures.pop("features_sha256", None)  # identifies the extractor; it is no figure
    judged = figures.pop("run_sha256", None)
    if None not in (judged, run_sha256) and judged != run_sha256:
        raise Refusal(path, "run_sha256", f"is of another run's samples ({judged!s:.12})", remedy)
    for name, value in figures.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise Refusal(path, name, f"is not a number ({value})", remedy)
    return figures


def headline(figures: dict[str, float]) -> tuple[str, float]:
    """Name and value of the distance that a summary shows: on features if there are any, otherwise on values."""
    name = "frechet_distance_on_features" if "frechet_distance_on_features_unguided" in figures else "frechet_distance"
    return DISTANCES[name], figures[f"{name}_unguided"]


def compared(figures: dict[str, float]) -> list[tuple[str, str, str]]:
    """Name, value for samples and value for real examples of each distance that the file has both values of."""
    floors = {name.removesuffix("_floor"): value for name, value in figures.items() if name.endswith("_floor")}
    return [
        (DISTANCES.get(name, name), f"{figures[f'{name}_unguided']:.4f}", f"{floor:.4f}")
        for name, floor in floors.items()
        if f"{name}_unguided" in figures
    ]
