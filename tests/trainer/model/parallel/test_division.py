"""Parts of parameters: every element is on one rank, and knows where it lies in the whole."""

import math

import pytest
import torch

from trainer.model.parallel.division import Part
from trainer.model.parallel.state import Region

CASES = [
    pytest.param((24, 5), 0, (24,), id="columns"),
    pytest.param((24, 5), 0, (8, 8, 8), id="query, key, value"),
    pytest.param((24, 5), 0, (16, 4, 4), id="grouped queries"),
    pytest.param((6, 8), 1, (8,), id="rows"),
    pytest.param((24,), 0, (16, 4, 4), id="bias"),
]


@pytest.mark.parametrize(("shape", "dimension", "sections"), CASES)
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_the_parts_of_all_ranks_are_the_whole(
    shape: tuple[int, ...], dimension: int, sections: tuple[int, ...], num_ranks: int
) -> None:
    whole = torch.arange(math.prod(shape)).view(shape)
    rebuilt = torch.full(shape, -1)
    for rank in range(num_ranks):
        part = Part.of(shape, dimension, sections, rank, num_ranks)
        cut = part.cut(whole)
        # of each section, the rank has as many neighbouring indices as every other rank
        expected = [s.chunk(num_ranks, dimension)[rank] for s in whole.split(sections, dimension)]
        assert torch.equal(cut, torch.cat(expected, dimension))
        part.put(cut, rebuilt)
    assert torch.equal(rebuilt, whole)


@pytest.mark.parametrize(("shape", "dimension", "sections"), CASES)
def test_any_run_of_a_part_is_found_in_the_whole(
    shape: tuple[int, ...], dimension: int, sections: tuple[int, ...]
) -> None:
    whole = torch.arange(math.prod(shape)).view(shape)
    part = Part.of(shape, dimension, sections, 1, 2)
    cut = part.cut(whole)
    for start in range(cut.numel()):
        for length in (1, 3, 7, cut.numel() - start, cut.numel()):
            run = cut.flatten()[start : start + length]
            padded = torch.cat([run, torch.full((length - len(run),), -1)])
            found = []
            for offset, values in Region.of_part(part, tuple(cut.shape), start).rectangles(padded):
                window = whole[tuple(slice(o, o + n) for o, n in zip(offset, values.shape, strict=True))]
                assert torch.equal(window, values)
                assert values.untyped_storage().data_ptr() == padded.untyped_storage().data_ptr()
                found += values.flatten().tolist()
            assert sorted(found) == sorted(run.tolist())
