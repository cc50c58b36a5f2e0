"""Rounds of a run whose packets are trimmed, in compiled code: see `netsim.engine.reference.watching`."""

from netsim.engine.event.compiled import compiled
from netsim.engine.event.state import Record, State
from netsim.engine.reference.watching import NOBODY


@compiled
def note_answer(state: State, task: int, progress: bool) -> None:
    """A packet of a task is newly acknowledged, or refused."""
    totals = state.network.totals[0]
    if progress:
        if not totals.progress and not state.program.background[task]:
            totals.progress = 1
    elif task < totals.refused and not state.program.background[task]:
        totals.refused = task


@compiled
def begin_round(rules: Record, totals: Record, now: int) -> bool:
    """Begins the round of a moment, later than `Rules.end_ps`; False if the run ends there."""
    if rules.end_ps == rules.limit_ps:
        return False
    if totals.progress:
        totals.fruitless = 0
    elif totals.refused < NOBODY:
        totals.fruitless += 1
    if totals.fruitless >= rules.fruitless:
        return False
    totals.progress, totals.refused = 0, NOBODY
    rules.end_ps = min(rules.limit_ps, (now // rules.round_ps + 1) * rules.round_ps - 1)
    return True
