"""The file of figures of edits."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from trainer.evaluation.editing.figures import EditFigures, Level, Point, psnr
from trainer.sampling.editing.plan import EditPlan

FORMAT = "flowfabric.edits/1"
RESULTS = "results.json"


def results_document(
    figures: EditFigures, plan: EditPlan, made_by: dict[str, Any], left_out: dict[str, str]
) -> dict[str, Any]:
    """The figures as they are written to JSON; nothing in them depends on ranks or on time."""
    return {
        "format": FORMAT,
        "made_by": made_by,
        "pictures": figures.num,
        "left_out": left_out,
        "level": plan.level_name,
        "levels": [_level(one, plan) for one in figures.levels],
        "floors": {
            "source": _point(figures.source),
            "fresh": _point(figures.fresh),
            "reconstruction": _error(figures.reconstruction),
            "decoder": _error(figures.decoder),
            "judge_accuracy": figures.judged,
        },
        "inversion": {"errors": figures.inversion_errors},
        "corrections": {"errors": figures.edit_errors},
        "calls": asdict(figures.calls) | {"levels": list(figures.calls.levels)},
    }


def _level(one: Level, plan: EditPlan) -> dict[str, Any]:
    classes = {
        name or "all": None if point is None else _point(point)
        for name, point in zip(plan.names, one.classes, strict=True)
    }
    return {"level": one.level, **_point(one.all), "held_error": one.held_error, "calls": one.calls, "classes": classes}


def _point(one: Point) -> dict[str, float | None]:
    return {**_error(one.error), "editability": one.editability}


def _error(error: float) -> dict[str, float | None]:
    ratio = psnr(error)
    return {"error": error, "psnr_db": None if math.isinf(ratio) else ratio}
