"""A campaign of faults: whatever happens to a run, it ends as the run that nothing happened to, bit for bit.

``python -m tests.faults --runs 20`` plays the scheduler of a cluster: it starts docker/launch.sh on one node or on
several, each in a network namespace of its own, lets faults happen, and starts again what has died. Parameters,
optimiser state, moving average and figures must end equal to those of an undisturbed run, and nothing may be lost but
the steps since the last checkpoint.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults.campaign import Outcome, Plan, Reference, disturbed, plans, undisturbed
from tests.faults.faults import KINDS
from tests.multinode.namespaces import obstacle, sigterm_unwinds


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the campaign; prints a line a run and a table, and writes campaign.json.

    Args:
        argv: arguments, those of the process if None.

    Returns:
        0 if all runs are good, 1 if not.
    """
    parser = argparse.ArgumentParser(prog="faults", description=__doc__, formatter_class=_Plain)
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="disturbed runs (default: 20)")
    parser.add_argument("--first", type=int, default=0, metavar="I", help="number of the first one (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: 0)")
    parser.add_argument("--nodes", type=int, default=2, metavar="N", help="nodes at most (default: 2; 1 unless root)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep runs, logs and campaign.json there")
    options = parser.parse_args(argv)
    if options.out is not None and options.out.exists() and any(options.out.iterdir()):
        parser.error(f"--out: {options.out} is not empty; give a new folder")
    why_not = obstacle()
    nodes = 1 if why_not else options.nodes
    kinds = [name for name in options.kinds or KINDS if KINDS[name].nodes <= nodes]
    if why_not:
        kinds = [name for name in kinds if not KINDS[name].small_disk and not KINDS[name].device]
        print(f"faults: one node, no full disk and no power cut, for {why_not}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as temporary, sigterm_unwinds():
        folder = (options.out or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        drawn = plans(options.first + options.runs, options.seed, kinds, nodes)[options.first :]
        outcomes = _run(drawn, options.first, options.seed, folder)
    _show(outcomes)
    return int(any(outcome.complaints for outcome in outcomes))


class _Plain(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    pass


def _run(drawn: Sequence[Plan], first: int, seed: int, folder: Path) -> list[Outcome]:
    """Runs one plan after the other; what is known is in campaign.json after each."""
    references: dict[tuple[int, int], Reference] = {}
    outcomes = []
    for number, plan in enumerate(drawn, start=first):
        key = plan.world_size, plan.zero_stage
        try:
            if key not in references:
                references[key] = undisturbed(folder / f"before_{number:03d}_{key[0]}_ranks_zero_{key[1]}", *key)
            outcome = disturbed(plan, references[key], folder / f"run_{number:03d}")
        except Exception as error:  # of the undisturbed run, without which there is nothing to compare with
            outcome = Outcome(plan, [], [], [], [" ".join(str(error).split()) or type(error).__name__], 0.0)
        outcomes.append(outcome)
        print(_line(number, outcome), flush=True)
        _write(outcomes, seed, folder / "campaign.json")
    return outcomes


def _line(number: int, outcome: Outcome) -> str:
    plan = outcome.plan
    steps = [f"after step {step}" for step, _ in plan.faults]
    told = [*outcome.told, *(["did not happen"] * (len(steps) - len(outcome.told)))]
    happened = "; ".join(f"{what} {when}" for what, when in zip(told, steps, strict=True))
    lost = ", ".join(str(lost) for _, lost in outcome.begins[1:])
    verdict = "; ".join(outcome.complaints) or "equal"
    return (
        f"run {number:3d}: {plan.nodes} node(s), ZeRO {plan.zero_stage}; {happened}; "
        f"{len(outcome.begins) - 1} restarts, steps lost [{lost}], {outcome.seconds:.0f} s: {verdict}"
    )


def _write(outcomes: Sequence[Outcome], seed: int, path: Path) -> None:
    good = sum(not outcome.complaints for outcome in outcomes)
    content = {"seed": seed, "good": good, "runs": [outcome.to_dict() for outcome in outcomes]}
    content["load_average"] = os.getloadavg()[0]
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _show(outcomes: Sequence[Outcome]) -> None:
    """Prints how many of the runs that a kind of fault happened to are good."""
    table = Table(
        title=f"{sum(not o.complaints for o in outcomes)} of {len(outcomes)} runs are good", title_justify="left"
    )
    for name in ("fault", "runs", "good", "steps lost at most"):
        table.add_column(name, justify="left" if name == "fault" else "right")
    for kind in KINDS:
        hit = [outcome for outcome in outcomes if kind in [name for _, name in outcome.plan.faults]]
        if hit:
            lost = max((lost for outcome in hit for _, lost in outcome.begins), default=0)
            table.add_row(kind, str(len(hit)), str(sum(not outcome.complaints for outcome in hit)), str(lost))
    Console(highlight=False).print(table)


if __name__ == "__main__":
    raise SystemExit(main())
