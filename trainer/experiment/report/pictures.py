"""The parts about pictures that the run restored and edited."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from netsim.foundation.page import Block, Figure, Link, Section, Table
from netsim.foundation.refusal import Refusal
from netsim.foundation.run_reference import ReferenceConfig
from trainer.config.trust import importing_trusted
from trainer.evaluation.editing_page import edit_sheet
from trainer.evaluation.restoration_figures import power
from trainer.evaluation.restoration_page import restored_sheet
from trainer.experiment.report.part import Part
from trainer.experiment.report.run_files import RunFiles, shown
from trainer.sampling.edit_request import OWN, EditRequest, planned
from trainer.sampling.edits import PictureEdits
from trainer.sampling.results_folder import RECORD, ResultsFolder
from trainer.sampling.trained import Reference

RESULTS, PAGE = "results.json", "index.html"
SHOWN = 3
"""Restored pictures on the page of a run."""


def restored_part(files: RunFiles, folder: Path, out: Path) -> Part:
    """Restorations of damaged pictures by the run; the page links to that of their folder."""
    results, found = _opened(files, folder)
    try:
        means, names = found["means"], [one["name"] for one in found["pictures"]]
        rows = [
            (name, f"{means['error'][kind]:.4f}" if "error" in means else "", power(means["residual"][kind]))
            for kind, name in _KINDS.items()
        ]
        share = means["error"]["restored"] / means["error"]["pseudo_inverse"] if "error" in means else None
        evaluations = found["evaluations"]["of_a_sample"]
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise _malformed(folder, error) from error
    pictures = [results.read(name) for name in names[:SHOWN]]
    told = "" if share is None else f", a squared error of {share:.2f} times that of the pseudo-inverse"
    text = (
        "The flow is the prior of an inverse problem that it was never trained for: FLAIR looks for pictures that "
        f"agree with what is observed and that the flow holds likely. {len(names)} pictures, {evaluations} evaluations "
        f"of the network for a sample{told}."
    )
    caption = (
        "Pseudo-inverse: the smallest picture that agrees with the observation. Samples: other draws for the same "
        "observation. Uncertainty: their standard deviation, brighter is larger."
    )
    blocks: list[Block] = [
        Figure(restored_sheet(names[:SHOWN], pictures), caption),
        Table(("", "squared error", "residual"), rows, "Residual: mean squared difference from what was observed."),
        Link(os.path.relpath(folder / PAGE, out.parent), "Every restored picture, and what it cost"),
    ]
    sections = [Section("Restoring pictures", blocks, text)]
    if share is None:
        return Part(sections=sections)
    row = ("restored pictures, squared error", f"{share:.2f} x that of the pseudo-inverse")
    fact = ("Restored, error", f"{share:.2f} x", "of the pseudo-inverse; no training")
    return Part([row], [fact], sections)


_KINDS = {"pseudo_inverse": "pseudo-inverse", "restored": "a sample", "mean_of_samples": "mean of the samples"}


def edited_part(files: RunFiles, folder: Path, out: Path) -> Part:
    """Edits of pictures by the run; the page links to that of their folder."""
    results, found = _opened(files, folder)
    try:
        with importing_trusted():
            request = EditRequest.model_validate(results.record["request"])
        name = next(one for one in results.names() if not results.problem(one))
        level, levels = found["level"], [*found["levels"], {"level": "a fresh draw", **found["floors"]["fresh"]}]
        rows = [
            (
                one["level"] if isinstance(one["level"], str) else f"{level} {one['level']:g}",
                f"{one['error']:.3f}",
                "" if one["editability"] is None else f"{one['editability']:.0%}",
            )
            for one in levels
        ]
    except (KeyError, TypeError, StopIteration, ValidationError) as error:
        raise _malformed(folder, error) from error
    plan = planned(request, _weights(files).config, labelled=request.source == OWN)
    edits = PictureEdits.from_arrays(results.read(name))
    text = (
        "A picture is followed back to the noise that leads to it, and that noise is drawn under other classes. The "
        f"higher the {level}, the nearer an edit stays to its picture, and the less it is of the class asked for."
    )
    caption = (
        "Left: the picture, and what its own class draws from the noise that was found. Right: each class at each "
        f"{level}; last: draws that know nothing of the picture."
    )
    blocks: list[Block] = [
        Figure(edit_sheet(edits, None, plan, "edited"), caption),
        Table(
            ("", "error", "of the class"),
            rows,
            "Error: mean squared difference to the picture; of the class: share that a classifier of real examples "
            "takes for the class asked for.",
        ),
        Link(os.path.relpath(folder / PAGE, out.parent), "Error against editability, and every edited picture"),
    ]
    last = found["levels"][-1]
    judged = "" if last["editability"] is None else f", {last['editability']:.0%} of the class asked for"
    return Part(
        [(f"edited pictures, {level} {last['level']:g}", f"error {last['error']:.3f}{judged}")],
        [],
        [Section("Editing pictures", blocks, text)],
    )


def _opened(files: RunFiles, folder: Path) -> tuple[ResultsFolder, dict[str, Any]]:
    """The results of a verb for the weights of the run, and its file of figures."""
    documents = []
    for name in (RECORD, RESULTS):
        try:
            document = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            remedy = "give a folder that the verb has finished"
            raise Refusal(folder / name, "file", f"cannot be read ({error})", remedy) from error
        if not isinstance(document, dict):
            raise Refusal(folder / name, "document", "is no mapping", "write it again")
        documents.append(document)
    record, found = documents
    weights = _weights(files).digest
    if record.get("weights") != weights:
        problem = f"is not that of {files.folder} ({shown(weights)})"
        raise Refusal(folder / RECORD, "weights", problem, "give what was made by this run's newest checkpoint")
    return ResultsFolder(folder, record), found


def _weights(files: RunFiles) -> Reference:
    return Reference.of_run(ReferenceConfig(run=files.folder))


def _malformed(folder: Path, error: Exception) -> Refusal:
    told = f"lacks {error}" if isinstance(error, KeyError) else f"is malformed ({' '.join(str(error).split())[:200]})"
    return Refusal(folder / RESULTS, "document", told, "write it again with the verb of this version")
