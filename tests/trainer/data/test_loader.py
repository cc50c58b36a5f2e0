import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.each import each
from trainer.data import Batch, Dataset, Loader, Split
from trainer.data.loader import accumulation_steps


class Numbers(Dataset):
    """Example i is a 1x1 image of i; the odd ones are held out."""

    num_classes = 2

    def __init__(self, num_examples: int) -> None:
        self.num_examples = num_examples
        self.shape: tuple[int, ...] = (1, 1, 1)

    def indices(self, split: Split) -> Tensor:
        return torch.arange(0 if split == "train" else 1, self.num_examples, 2)

    def get(self, indices: Tensor) -> Batch:
        return Batch(indices.float().reshape(-1, 1, 1, 1), indices % 2, indices)


def loader(examples: int = 40, **changes) -> Loader:
    settings = {"global_batch": 12, "micro_batch": 3, "rank": 0, "world_size": 1, "seed": 0}
    return Loader(Numbers(examples), **{**settings, **changes})


def stream(length: int, **changes) -> list[int]:
    """The stream one example at a time, by the plainest loader there is."""
    plain = loader(**{**changes, "global_batch": 1, "micro_batch": 1, "world_size": 1, "rank": 0})
    return [int(plain.batch(step, 0).ids) for step in range(length)]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_global_batch_does_not_depend_on_the_world_size(world_size):
    expected = stream(5 * 12)
    for step in range(5):
        ids = []
        for rank in range(world_size):
            dealt = loader(rank=rank, world_size=world_size)
            assert dealt.accumulation == 4 // world_size
            for local in range(dealt.accumulation):
                assert dealt.global_micro(local) == len(ids) // 3
                ids += dealt.batch(step, local).ids.tolist()
        assert ids == expected[step * 12 : (step + 1) * 12]


def test_every_epoch_shows_every_training_example_once_in_another_order():
    positions = stream(60)
    epochs = [positions[start : start + 20] for start in (0, 20, 40)]
    assert all(sorted(epoch) == list(range(0, 40, 2)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@given(examples=st.integers(2, 30), step=st.integers(0, 200), micro=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_batches_are_slices_of_the_stream_even_across_many_epochs(examples, step, micro):
    batch = loader(examples, global_batch=micro, micro_batch=micro, seed=3).batch(step, 0)
    one = loader(examples, global_batch=1, micro_batch=1, seed=3)
    assert batch.ids.tolist() == [
        int(one.batch(position, 0).ids) for position in range(step * micro, (step + 1) * micro)
    ]


def test_seeds_give_other_orders():
    assert stream(20, seed=1) != stream(20, seed=2)


def test_a_batch_carries_the_examples_of_its_ids():
    batch = loader(split="held_out").batch(0, 1)
    assert batch.x_1.flatten().tolist() == batch.ids.tolist()
    assert batch.labels is not None
    assert batch.labels.tolist() == [1, 1, 1]


@each(
    ("global_batch", "remedy"), [(17, "use 16 or 24"), (5, "use 8"), (0, "use 8"), (-3, "use 8"), (31, "use 24 or 32")]
)
def test_a_batch_that_does_not_come_out_even_is_refused(global_batch, remedy):
    with pytest.raises(ValueError, match=rf"^optim\.global_batch: {global_batch} is not .*= 8; {remedy}$"):
        accumulation_steps(global_batch, micro_batch=4, world_size=2)
    with pytest.raises(ValueError, match="global_batch"):
        loader(global_batch=global_batch, micro_batch=4, world_size=2)
    assert accumulation_steps(24, micro_batch=4, world_size=2) == 3
