"""The parts about the draws of a run: few calls, traffic of ranks, continued texts, restored and edited pictures."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from moe.collective_trace import CollectiveRecord, read
from moe.placement.placement import Placement
from moe.price.table import change, megabytes
from moe.price.traffic import Traffic
from netsim.foundation.files import reading
from netsim.foundation.page import Block, Figure, Link, Section, Table
from netsim.foundation.refusal import Refusal
from netsim.foundation.run_reference import ReferenceConfig
from trainer.config.trust import importing_trusted
from trainer.evaluation.editing_page import edit_sheet
from trainer.evaluation.restoration_figures import power
from trainer.evaluation.restoration_page import restored_sheet
from trainer.evaluation.step_figures import StepFigures, ratio
from trainer.evaluation.steps_page import errors_chart
from trainer.experiment.report.part import Part, before_after_bars
from trainer.experiment.report.run_files import RunFiles, shown
from trainer.flow.sampler.protocol import StepsFile
from trainer.sampling.edit_request import OWN, EditRequest, planned
from trainer.sampling.edits import PictureEdits
from trainer.sampling.results_folder import RECORD, ResultsFolder
from trainer.sampling.sampler_choice import check_made_of
from trainer.sampling.trained import Reference

RECORDED, FORMULA = "collectives.jsonl", "formula.jsonl"
"""Files in the folder of a drawing: the recording of ``sample --trace``, the output of ``trace --sampling``."""
FEW = 4
"""Evaluations of the large number on the page, or the nearest to it."""


def steps_part(files: RunFiles, path: Path) -> Part:
    """The part about the gains of searched grids of times."""
    check_made_of(path, Reference.of_run(ReferenceConfig(run=files.folder)).digest)
    file = StepsFile.read(path)
    figures = StepFigures.of(path, file)
    search = file.made_by.get("search", "endpoint")
    few = min(figures.grids, key=lambda number: abs(number - FEW))
    shares = {
        number: ratio(kinds[search].error, kinds["uniform"].error)
        for number, kinds in figures.grids.items()
        if search in kinds
    }
    listed = ", ".join(f"{share:.2f} in {number}" for number, share in shares.items())
    text = (
        "A sampler of few steps gains by taking them where the paths bend. The steps verb searched the times at which "
        f"Euler's method ends nearest to {file.made_by.get('nodes', 100)} steps, without any training. On "
        f"{figures.fresh:,} noises that the search had not seen, the error is that of equal steps times {listed} "
        "evaluations."
    )
    caption = (
        "Lower is better. Error: mean squared distance from where the fine grid leads the same noise, which the "
        "endpoint search lowers. Energy distance: how much the ends as a whole differ from those of the fine grid, at "
        "which no search looks."
    )
    return Part(
        [(f"searched times, error in {few} evaluations", f"{shares[few]:.2f} x that of equal steps")],
        [(f"Error in {few} calls", f"{shares[few]:.2f} x", "of equal steps, with searched times; no training")],
        [Section("Fewer calls: steps where the paths bend", [Figure(errors_chart(figures), caption)], text)],
    )


def drawing_part(files: RunFiles, folder: Path) -> Part:
    """Traffic of the ranks while they draw samples, recorded and by formula."""
    rows, traffic, calls = [], {}, {}
    for name, origin in ((RECORDED, "recorded"), (FORMULA, "by formula")):
        header, records = read(folder / name)
        if header.config_sha256 not in files.digests:
            problem = f"is not that of {files.folder} ({shown(header.config_sha256)})"
            raise Refusal(folder / name, "line 1, config_sha256", problem, "write it of this run")
        records = list(records)
        calls[origin] = 1 + max((record.micro for record in records), default=0)
        traffic[origin] = Traffic.of(header, records, header.ranks_per_node)
    for origin, one in traffic.items():
        a_call = megabytes(one.rank_bytes / calls[origin])
        rows.append((origin, str(calls[origin]), megabytes(one.rank_bytes), a_call, megabytes(one.node_bytes)))
    recorded, expected = (traffic[origin].rank_bytes for origin in ("recorded", "by formula"))
    difference = change(expected, recorded)
    table: list[Block] = [
        Table(
            ("", "calls of the network", "bytes between ranks", "of a call", "between nodes"),
            rows,
            "By formula, tokens are spread evenly over the ranks and choose their experts at random; recorded, where "
            "the router sent them.",
        )
    ]
    text = (
        "With experts on several ranks, each call of the network is all-to-alls: fewer calls are fewer bytes and less "
        f"time on the wire. The ranks drew together in {calls['recorded']} calls and sent {megabytes(recorded)}, "
        f"{difference} against the formula, which writes a drawing for any number of ranks, for netsim to time."
    )
    return Part(
        [("drawing, bytes between ranks", f"{megabytes(recorded)}, {difference} against even routing")],
        [],
        [Section("What a drawing sends", table, text)],
    )


_REMEDY = "write both with `python -m trainer generate RUN --record` under torchrun, from the same run and prompts"


@dataclass(frozen=True)
class _Decoded:
    """One placement: its traffic, the busiest rank over the mean, the texts, the hash of the run's configuration."""

    placement: Placement
    traffic: Traffic
    busiest: float
    texts: bytes
    config_sha256: str | None

    @classmethod
    def read(cls, folder: Path) -> _Decoded:
        header, records = read(folder / "collectives.jsonl")
        placement = Placement.read(folder / "placement.json")
        with reading(folder / "texts.txt", _REMEDY):
            texts = (folder / "texts.txt").read_bytes()
        traffic = Traffic.of(header, records, placement.ranks_per_node)
        return cls(placement, traffic, _busiest(records, header.world_size), texts, header.config_sha256)


def decoding_part(folder: Path) -> Part:
    """Saving of a placement while texts are written, from ``generate --record`` in contiguous/ and placed/."""
    before, placed = (_Decoded.read(folder / name) for name in ("contiguous", "placed"))
    path = folder / "placed"
    if before.config_sha256 != placed.config_sha256:
        problem = f"is not that of {folder / 'contiguous'} ({shown(placed.config_sha256)})"
        raise Refusal(path / "collectives.jsonl", "line 1, config_sha256", problem, _REMEDY)
    same = before.texts == placed.texts
    was, now = before.traffic, placed.traffic
    less = change(was.rank_bytes, now.rank_bytes)
    rows = [
        ("rows that leave their rank", f"{was.moved:.1%}", f"{now.moved:.1%}", change(was.moved, now.moved)),
        ("bytes between ranks", megabytes(was.rank_bytes), megabytes(now.rank_bytes), less),
        (
            "busiest rank (mean of layers)",
            f"{before.busiest:.2f} x mean",
            f"{placed.busiest:.2f} x mean",
            f"{placed.busiest - before.busiest:+.2f}",
        ),
    ]
    bars = {
        "rows that leave their rank": {"contiguous": 100 * was.moved, "placed": 100 * now.moved},
        "bytes between ranks": {"contiguous": was.rank_bytes / 1e6, "placed": now.rank_bytes / 1e6},
    }
    written = before.texts.decode("utf-8", errors="replace").split("\n" + "-" * 80 + "\n")
    equal = "Both write the same bytes" if same else "The texts differ, since sums are rounded otherwise"
    text = (
        f"A small language model writes {len(written):,} texts at once in context-coherent dispatch, where a token "
        f"stays with its expert. Placed by affinity between layers, {now.moved:.1%} of the rows leave their rank in "
        f"place of {was.moved:.1%}, and the bytes between ranks change by {less}. {equal}."
    )
    caption = "Recorded while the ranks wrote. Bytes: token moves, and keys and values of every new byte for all ranks."
    caption_of_bars = "While the texts were written: rows of tokens, and all bytes of the expert layers and caches."
    blocks = [
        Figure(before_after_bars(bars, ("%", "MB")), caption_of_bars),
        Table(("", "contiguous, recorded", "placed, recorded", "change"), rows, caption),
    ]
    return Part(
        [("decoding, rows that leave their rank", f"{was.moved:.1%} -> {now.moved:.1%}, bytes {less}")],
        [
            (
                "Rows between ranks, decoding",
                f"{now.moved:.0%}",
                f"leave their rank; contiguous {was.moved:.0%}; bytes {less}",
            )
        ],
        [Section("Second act: a language model decodes with its experts placed", blocks, text)],
    )


def _busiest(records: list[CollectiveRecord], world_size: int) -> float:
    """Rows of the busiest rank divided by the mean of the ranks; mean over the layers."""
    layers = sorted({record.layer for record in records if record.op == "all_to_all" and record.layer is not None})
    rows_LR = np.zeros([len(layers), world_size])
    for record in records:
        if record.op == "all_to_all" and record.layer is not None:
            rows_LR[layers.index(record.layer), record.rank] += record.bytes_out
    return float((rows_LR.max(axis=1) / np.maximum(rows_LR.mean(axis=1), 1)).mean()) if layers else 1.0


_RESULTS, _PAGE = "results.json", "index.html"
_SHOWN = 3
"""Restored pictures on the page of a run."""


def restored_part(files: RunFiles, folder: Path, out: Path) -> Part:
    """Restorations of damaged pictures by the run; the page links to that of their folder."""
    results, document = _opened(files, folder)
    try:
        means, names = document["means"], [one["name"] for one in document["pictures"]]
        rows = [
            (name, f"{means['error'][kind]:.4f}" if "error" in means else "", power(means["residual"][kind]))
            for kind, name in _KINDS.items()
        ]
        share = means["error"]["restored"] / means["error"]["pseudo_inverse"] if "error" in means else None
        evaluations = document["evaluations"]["of_a_sample"]
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise _malformed(folder, error) from error
    pictures = [results.read(name) for name in names[:_SHOWN]]
    gain = "" if share is None else f", a squared error of {share:.2f} times that of the pseudo-inverse"
    text = (
        "The flow is the prior of an inverse problem that it was never trained for: FLAIR looks for pictures that "
        f"agree with what is observed and that the flow holds likely. {len(names)} pictures, {evaluations} evaluations "
        f"of the network for a sample{gain}."
    )
    caption = (
        "Pseudo-inverse: the smallest picture that agrees with the observation. Samples: other draws for the same "
        "observation. Uncertainty: their standard deviation, brighter is larger."
    )
    blocks: list[Block] = [
        Figure(restored_sheet(names[:_SHOWN], pictures), caption),
        Table(("", "squared error", "residual"), rows, "Residual: mean squared difference from what was observed."),
        Link(os.path.relpath(folder / _PAGE, out.parent), "Every restored picture, and what it cost"),
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
    results, document = _opened(files, folder)
    try:
        with importing_trusted():
            request = EditRequest.model_validate(results.record["request"])
        name = next(one for one in results.names() if not results.problem(one))
        level, levels = (
            document["level"],
            [*document["levels"], {"level": "a fresh draw", **document["floors"]["fresh"]}],
        )
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
    plan = planned(request, Reference.of_run(ReferenceConfig(run=files.folder)).config, labelled=request.source == OWN)
    edits = PictureEdits.from_arrays(results.read(name))
    text = (
        "A picture is followed back to the noise that leads to it, and that noise is drawn under other classes. The "
        f"higher the {level}, the nearer an edit stays to its picture, and the less it is of the requested class."
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
            "takes for the requested class.",
        ),
        Link(os.path.relpath(folder / _PAGE, out.parent), "Error against editability, and every edited picture"),
    ]
    last = document["levels"][-1]
    judged = "" if last["editability"] is None else f", {last['editability']:.0%} of the requested class"
    return Part(
        [(f"edited pictures, {level} {last['level']:g}", f"error {last['error']:.3f}{judged}")],
        [],
        [Section("Editing pictures", blocks, text)],
    )


def _opened(files: RunFiles, folder: Path) -> tuple[ResultsFolder, dict[str, Any]]:
    """Opens the results of a verb and its file of figures; refuses results of other weights than the run's."""
    documents = []
    for name in (RECORD, _RESULTS):
        try:
            document = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            remedy = "give a folder that the verb has finished"
            raise Refusal(folder / name, "file", f"cannot be read ({error})", remedy) from error
        if not isinstance(document, dict):
            raise Refusal(folder / name, "document", "is no mapping", "write it again")
        documents.append(document)
    record, content = documents
    weights = Reference.of_run(ReferenceConfig(run=files.folder)).digest
    if record.get("weights") != weights:
        problem = f"is not that of {files.folder} ({shown(weights)})"
        raise Refusal(folder / RECORD, "weights", problem, "give what was made by this run's newest checkpoint")
    return ResultsFolder(folder, record), content


def _malformed(folder: Path, error: Exception) -> Refusal:
    message = " ".join(str(error).split())[:200]
    problem = f"lacks {error}" if isinstance(error, KeyError) else f"is malformed ({message})"
    return Refusal(folder / _RESULTS, "document", problem, "write it again with the verb of this version")
