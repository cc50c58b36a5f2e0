"""Reading ahead changes no batch, and bad examples are replaced alike whoever reads them."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.ranks import run_ranks
from trainer.data import BadExamples, Batch, Dataset, Loader, Split
from trainer.data.bad_examples import BadExampleList
from trainer.data.feed import Feed
from trainer.data.loading import DataLoadingConfig
from trainer.failure import RunFailed


class Numbers(Dataset):
    """Example i is the vector (i,); some are bad, some break the reading, and all take their time."""

    num_classes = 0
    shape = (1,)

    def __init__(self, num: int = 40, bad: frozenset[int] = frozenset(), broken: int | None = None) -> None:
        self.num, self.bad, self.broken = num, bad, broken

    def indices(self, split: Split) -> Tensor:
        return torch.arange(0 if split == "train" else 1, self.num, 2)

    def get(self, indices: Tensor) -> tuple[Tensor, None]:
        time.sleep(0.001 * (int(indices.sum()) % 3))
        if self.broken in indices.tolist():
            raise OSError(f"file {self.broken} is locked")
        reasons = {number: f"file {number}: unreadable" for number in indices.tolist() if number in self.bad}
        if reasons:
            raise BadExamples(reasons)
        return indices.float()[:, None], None


def loader(dataset: Dataset, rank: int = 0, world_size: int = 1, **changes) -> Loader:
    settings = {"global_batch": 12, "micro_batch": 3, "seed": 0, "max_bad_share": 0.9, **changes}
    return Loader(dataset, rank=rank, world_size=world_size, **settings)


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.x_1, other.x_1) and torch.equal(one.ids, other.ids) and one.replaced == other.replaced


@pytest.mark.parametrize(("prefetch", "workers"), [(0, 1), (1, 1), (2, 1), (7, 3)])
@pytest.mark.parametrize("bad", [frozenset(), frozenset({4, 6, 38})])
def test_reading_ahead_changes_no_batch(prefetch: int, workers: int, bad: frozenset[int]) -> None:
    feed = Feed(loader(Numbers(bad=bad)), DataLoadingConfig(prefetch=prefetch, workers=workers))
    plain = loader(Numbers(bad=bad))
    for step in (0, 1, 2, 10, 11, 3, 4):  # resumed later, then earlier
        for local in range(4):
            assert same(feed.batch(step, local), plain.batch(step, local))
    assert feed.waited_s() > 0


def test_a_failure_is_raised_when_it_is_its_turn() -> None:
    plain = loader(Numbers())
    turns = [plain.batch(*divmod(place, 4)).ids.tolist() for place in range(6)]
    broken = turns[5][0]
    first = next(place for place, ids in enumerate(turns) if broken in ids)
    feed = Feed(loader(Numbers(broken=broken)), DataLoadingConfig(prefetch=4))
    for place in range(first):
        assert feed.batch(*divmod(place, 4)).ids.tolist() == turns[place]
    with pytest.raises(OSError, match=f"file {broken} is locked"):
        feed.batch(*divmod(first, 4))


def test_the_next_good_example_of_the_split_stands_in_for_a_bad_one() -> None:
    bad = frozenset({6, 8, 38, 7})
    stand_ins = {6: 10, 8: 10, 38: 0}  # after the last comes the first; 7 is held out
    clean, spoilt = loader(Numbers()), loader(Numbers(bad=bad))
    for step in range(8):
        for local in range(4):
            due = clean.batch(step, local).ids.tolist()
            batch = spoilt.batch(step, local)
            assert batch.ids.tolist() == [stand_ins.get(number, number) for number in due]
            assert batch.x_1.flatten().tolist() == batch.ids.tolist()
            assert batch.replaced == {n: f"file {n}: unreadable" for n in due if n in stand_ins}


@pytest.mark.parametrize("world_size", [2, 4])
def test_replacements_do_not_depend_on_the_world_size_or_on_what_was_read_before(world_size: int) -> None:
    bad = frozenset({2, 6, 8, 30})
    alone = loader(Numbers(bad=bad))
    history = [alone.batch(step, local).ids.tolist() for step in range(5) for local in range(4)]
    for step in (4, 0):
        ranks = [loader(Numbers(bad=bad), rank, world_size) for rank in range(world_size)]
        dealt = [rank.batch(step, local).ids.tolist() for rank in ranks for local in range(rank.accumulation)]
        assert dealt == history[4 * step : 4 * step + 4]


def test_too_many_bad_examples_end_the_run() -> None:
    allowed = loader(Numbers(bad=frozenset({2, 4})), max_bad_share=0.1)
    for step in range(4):
        allowed.batch(step, 0)
    refused = loader(Numbers(bad=frozenset({2, 4, 6})), max_bad_share=0.1, micro_batch=12)
    with pytest.raises(RunFailed, match=r"data_loading\.max_bad_share: 3 of 20 examples .* file \d: unreadable; mend"):
        [refused.batch(step, 0) for step in range(4)]
    with pytest.raises(RunFailed, match="cannot be read"):
        loader(Numbers(bad=frozenset(range(40))), max_bad_share=0.99).batch(0, 0)


def batch(*reasons: str) -> Batch:
    nothing = torch.zeros(1)
    return Batch(nothing, None, nothing, dict(enumerate(reasons)))


def met(rank: int, _: int, path: str) -> list[int]:
    counts = []
    kept = BadExampleList(Path(path), started=0, num_examples=100, max_bad_share=0.05)
    kept.take(1, batch(f"own {rank}", "both"))
    counts.append(kept.count())
    kept.take(5, batch("both", "late") if rank else batch())
    counts.append(kept.count())
    counts.append(kept.count())
    again = BadExampleList(Path(path), started=4, num_examples=100, max_bad_share=0.05)
    counts.append(again.count())
    again.take(6, batch("a", "b", "c"))
    try:
        again.count()
    except RunFailed:
        counts.append(-1)
    return counts


def test_ranks_count_each_bad_example_once_and_a_resumed_run_goes_on_counting(tmp_path: Path) -> None:
    path = tmp_path / "bad_samples.txt"
    assert run_ranks(met, 2, str(path)) == [[3, 4, 4, 3, -1]] * 2
    lines = path.read_text().splitlines()
    assert lines == ["1\tboth", "1\town 0", "1\town 1", "6\ta", "6\tb", "6\tc"]
    assert np.all([line.count("\t") == 1 for line in lines])
