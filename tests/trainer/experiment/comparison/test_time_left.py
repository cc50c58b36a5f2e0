"""The time that a comparison still takes, by clocks and shares of our own."""

from dataclasses import dataclass
from typing import Any

import pytest

from trainer.experiment.comparison.training import Piece, TimeLeft
from trainer.experiment.stage.protocol import Cost


@dataclass
class Drawing:
    """A stage that draws pairs, of which a share is there."""

    name: str
    num: int
    verb: str = "pairs"
    share_done: float = 0.0

    @property
    def cost(self) -> Cost:
        return Cost(pairs=self.num)


def piece(stage: Any, seed: int = 0, method: str = "reflow") -> Piece:
    return Piece(method, seed, stage)


class Clock:
    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


def test_nothing_is_said_before_anything_is_known() -> None:
    first = piece(Drawing("pairs", 20_000))
    left = TimeLeft([first], jobs=1, now=Clock())
    left.reached(first)
    assert left.seconds() is None


def test_a_long_stage_goes_on_at_its_own_pace_and_not_at_that_of_finished_ones() -> None:
    """A short run took 27 s; 20,000 pairs of which a tenth has taken 150 s need 1350 s more."""
    clock, short, long = Clock(), piece(Drawing("pairs", 360), method="short"), piece(Drawing("pairs", 20_000))
    left = TimeLeft([short, long], jobs=1, now=clock)
    left.reached(short)
    clock.s = 27.0
    left.ended(short)
    assert left.seconds() == pytest.approx(27 * 20_000 / 360), "by pairs, before it has begun"
    left.reached(long)
    clock.s += 150
    long.stage.share_done = 0.1  # pyright: ignore[reportAttributeAccessIssue]  the stage of this test
    left.reached(long)
    assert left.seconds() == pytest.approx(1350)
    left.ended(long)
    assert left.seconds() == 0


def test_a_stage_that_is_continued_counts_what_is_drawn_now() -> None:
    """Half was there; a tenth of the whole took 10 s, so four tenths take 40 s."""
    clock, half = Clock(), piece(Drawing("pairs", 1000, share_done=0.5))
    left = TimeLeft([half], jobs=1, now=clock)
    left.reached(half)
    clock.s, half.stage.share_done = 10.0, 0.6  # pyright: ignore[reportAttributeAccessIssue]
    left.reached(half)
    assert left.seconds() == pytest.approx(40)


def test_several_at_a_time_share_the_work_and_the_longest_decides() -> None:
    clock = Clock()
    pieces = [piece(Drawing("pairs", 100), seed) for seed in range(5)]
    left = TimeLeft(pieces, jobs=4, now=clock)
    left.reached(pieces[0])
    clock.s = 60.0
    left.ended(pieces[0])
    assert left.seconds() == pytest.approx(60), "four of 60 s, four at a time"
    left.dropped("reflow", 4)
    assert left.seconds() == pytest.approx(60), "three of 60 s end no sooner"


def test_a_stage_that_takes_longer_than_its_like_makes_no_promise() -> None:
    clock = Clock()
    one, other = piece(Drawing("pairs", 100), 0), piece(Drawing("pairs", 100), 1)
    left = TimeLeft([one, other], jobs=1, now=clock)
    left.reached(one)
    clock.s = 10.0
    left.ended(one)
    left.reached(other)
    clock.s = 15.0
    assert left.seconds() == pytest.approx(5)
    clock.s = 21.0
    assert left.seconds() is None
