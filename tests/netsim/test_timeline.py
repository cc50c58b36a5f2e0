"""Laws of the picture of collectives over time."""

from random import Random

import numpy as np
import pytest

from netsim.report.collectives import has_timeline, lanes, timeline_svg, timeline_title
from netsim.report.comparison import write_report
from tests.each import each
from tests.netsim.documents import collective_of, one_leaf
from tests.netsim.traces import TraceWriter


@pytest.fixture
def ringing(tmp_path):
    """Two all-reduces of four ranks below one leaf, with 50 µs of computation between them."""
    trace = TraceWriter(4)
    trace.all_reduce(160_000)
    trace.all_reduce(160_000, gap_ns=50_000)
    workload = {"kind": "trace", "path": str(trace.write(tmp_path / "trace.jsonl"))}
    return one_leaf(workload, 4, transports=["ecmp"])


def covered(bars, moments):
    return ((bars[:, :1] <= moments) & (moments < bars[:, 1:])).any(axis=0)


@each("seed", range(5))
def test_lanes_hold_each_moment_of_each_collective_and_do_not_overlap(seed):
    random = Random(seed)
    begins = [random.randrange(1000) for _ in range(random.randrange(1, 40))]
    times = np.array([(begin, begin + random.randrange(1, 200)) for begin in begins])
    dealt = lanes(times, 0)
    moments = np.arange(1300)
    assert np.array_equal(np.any([covered(bars, moments) for bars in dealt], axis=0), covered(times, moments))
    for bars in dealt:
        assert (bars[1:, 0] > bars[:-1, 1]).all()
    deepest = max(sum(int(begin <= moment < end) for begin, end in times.tolist()) for moment in moments)
    assert len(dealt) == min(6, deepest)


def test_the_title_says_for_how_long_collectives_are_under_way(ringing):
    run = ringing.runs[0]
    share = round(100 * (1 - 50_000_000 / run.completion_ps))
    assert timeline_title(ringing) == f"Under ecmp, collectives are under way for {share} % of the time"
    assert timeline_svg(ringing) == timeline_svg(ringing)


@pytest.mark.usefixtures("blank_pictures_here")
def test_the_picture_is_there_only_where_there_are_several_collectives(ringing, tmp_path):
    write_report(ringing, tmp_path)
    assert timeline_title(ringing) in (tmp_path / "report.html").read_text()
    single = one_leaf(collective_of("all_to_all", "32KB"), 4)
    assert not has_timeline(single)
    write_report(single, tmp_path)
    assert not (tmp_path / "figures" / "timeline.svg").exists()
