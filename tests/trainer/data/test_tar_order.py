"""The order of an epoch of tars."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.each import each
from trainer.data.webdataset import streamed_order

SHUFFLE = 8


def order(tars: list[int], *, epoch: int = 0, seed: int = 0, **changes: int) -> np.ndarray:
    """The order of tars of so many examples each."""
    stretches = np.split(np.arange(sum(tars)), np.cumsum(tars)[:-1])
    wanted = {"global_batch": 16, "streams": 4, "shuffle": SHUFFLE, **changes}
    return streamed_order(stretches, seed=seed, epoch=epoch, **wanted)


@given(
    tars=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any),
    epoch=st.integers(0, 5),
    global_batch=st.integers(1, 40),
    streams=st.integers(1, 50),
    shuffle=st.integers(1, 30),
)
@settings(max_examples=80, deadline=None)
def test_every_epoch_has_every_example_once(
    tars: list[int], epoch: int, global_batch: int, streams: int, shuffle: int
) -> None:
    dealt = order(tars, epoch=epoch, global_batch=global_batch, streams=streams, shuffle=shuffle)
    assert sorted(dealt) == list(range(sum(tars)))


def test_seeds_and_epochs_give_other_orders_and_the_same_ones_again() -> None:
    orders = [order([50, 70], epoch=epoch, seed=seed) for epoch in range(3) for seed in range(3)]
    assert len({tuple(dealt) for dealt in orders}) == 9
    np.testing.assert_array_equal(orders[5], order([50, 70], epoch=1, seed=2))


@each("epoch", [0, 3])
@each("world_size", [1, 2, 4, 8])
def test_a_rank_reads_few_tars_and_each_from_front_to_back(epoch: int, world_size: int) -> None:
    """Of 24 tars in 16 streams, a rank of W is in 16 / W streams; where an epoch begins within a step too."""
    tars, global_batch, streams = [100] * 24, 64, 16
    dealt = order(tars, epoch=epoch, global_batch=global_batch, streams=streams)
    place_in_step = (epoch * len(dealt) + np.arange(len(dealt))) % global_batch
    step = (epoch * len(dealt) + np.arange(len(dealt))) // global_batch
    for rank in range(world_size):
        own = place_in_step * world_size // global_batch == rank
        for now in np.unique(step):
            places = dealt[own & (step == now)]
            # A stream is in one tar, or in two where it goes from one to the next or back to where the circle was cut.
            assert len(np.unique(places // 100)) <= 2 * streams // world_size
        for stream in range(rank * streams // world_size, (rank + 1) * streams // world_size):
            line = dealt[own & (place_in_step * streams // global_batch == stream)]
            for tar in np.unique(line // 100):
                (inside,) = np.nonzero(line // 100 == tar)
                assert (np.diff(inside) <= 2 * SHUFFLE).all(), "a tar is read in one go"
                back = np.maximum.accumulate(line[inside]) - line[inside]
                jumps = back >= 2 * SHUFFLE  # the circle may be cut inside a tar
                assert np.count_nonzero(np.diff(jumps.astype(int)) == 1) <= 1


def test_neighbours_are_shuffled_and_part_from_epoch_to_epoch() -> None:
    orders = [order([4000], epoch=epoch, streams=1, global_batch=1) for epoch in range(2)]
    for dealt in orders:
        assert np.mean(np.diff(dealt) == 1) < 2.5 / SHUFFLE
    runs = [{frozenset(dealt[first : first + SHUFFLE]) for first in range(0, 4000, SHUFFLE)} for dealt in orders]
    assert len(runs[0] & runs[1]) < 10


def test_a_step_sees_all_streams_alike() -> None:
    """With one example a tar and stream, a step takes from each quarter of the line as many."""
    dealt = order([400], global_batch=16, streams=4, shuffle=1)
    line = (dealt - dealt[0]) % 400
    assert all(np.bincount(line[first : first + 16] // 100).tolist() == [4, 4, 4, 4] for first in range(0, 400, 16))
