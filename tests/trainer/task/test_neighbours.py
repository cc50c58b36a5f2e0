"""Memories of examples and the neighbours that they give."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trainer.config.task.representation import DynamicClusters, NearestNeighbours
from trainer.task.contrastive import ClusteredMemory, Memory

PLAIN = NearestNeighbours(memory=12, neighbours=3, begin=2)
CLUSTERS = DynamicClusters(memory=120, neighbours=3, begin=0, clusters=6)
STEP = 20


def units(num: int, seed: int, width: int = 5) -> Tensor:
    return functional.normalize(torch.randn(num, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def blobs(num: int, seed: int, noise: float = 0.3) -> tuple[Tensor, Tensor]:
    """Unit vectors around six directions, of which each is as frequent as the number of the direction before it."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.multinomial(torch.tensor([6.0, 3.0, 2.0, 1.0, 1.0, 1.0]), num, replacement=True, generator=generator)
    points = units(6, 99)[kinds] + noise * torch.randn(num, 5, generator=generator)
    return functional.normalize(points, dim=1), kinds


def clustered(steps: int) -> ClusteredMemory:
    memory = ClusteredMemory(CLUSTERS, seed=0)
    for step in range(steps):
        memory.write(blobs(STEP, step)[0])
    return memory


def test_the_last_examples_are_kept_and_the_nearest_of_them_are_neighbours() -> None:
    memory, seen = Memory(PLAIN, seed=0), []
    for step in range(5):
        seen.append(units(5, step))
        assert memory.begun == (step >= 3), "it must be full"
        memory.write(seen[-1])
    last, asked = torch.cat(seen)[-12:], units(4, 77)
    expected = last[(asked @ last.mT).topk(3).indices]
    assert torch.equal(memory.neighbours(asked), expected)


def test_neighbours_are_in_the_nearest_cluster_or_anywhere_if_that_is_small() -> None:
    memory, asked = clustered(9), units(40, 5)
    state = memory.state()
    nearest = (asked @ functional.normalize(state["centres"]).mT).argmax(1)
    sizes = state["labels"].bincount(minlength=6)
    for one, cluster, found in zip(asked, nearest, memory.neighbours(asked), strict=True):
        small = sizes[cluster] <= CLUSTERS.neighbours
        among = state["examples"] if small else state["examples"][state["labels"] == cluster]
        assert torch.equal(found, among[(among @ one).topk(3).indices])


def test_transport_divides_new_examples_evenly_among_near_clusters() -> None:
    memory, (new, _) = clustered(9), blobs(240, 50)
    centres = functional.normalize(memory.state()["centres"])
    assigned, nearest = memory.assigned(new), (new @ centres.mT).argmax(1)
    assert assigned.bincount(minlength=6).max() < nearest.bincount(minlength=6).max()
    own = (new * centres[assigned]).sum(1).mean()
    assert own > (new @ centres.mT).mean() + 0.3, "clusters are near, not far"
    load = memory.figures()["cluster_load"]
    assert load == memory.state()["labels"].bincount(minlength=6).max() / 20


def test_centres_follow_the_means_of_their_examples() -> None:
    memory = clustered(6)
    before = memory.state()
    memory.write(blobs(STEP, 6)[0])
    after = memory.state()
    for cluster in range(6):
        members = after["examples"][after["labels"] == cluster]
        moved = 0.9 * before["centres"][cluster] + 0.1 * members.mean(0) if len(members) else before["centres"][cluster]
        torch.testing.assert_close(after["centres"][cluster], moved)


@pytest.mark.parametrize("steps", [2, 6, 8])
def test_a_memory_goes_on_bit_for_bit_where_its_state_was(steps: int) -> None:
    straight, resumed = clustered(steps), ClusteredMemory(CLUSTERS, seed=0)
    resumed.load(straight.state(), torch.device("cpu"))
    for step in range(steps, steps + 5):
        for memory in (straight, resumed):
            memory.write(blobs(STEP, step)[0])
    first, second = straight.state(), resumed.state()
    assert first.keys() == second.keys()
    assert all(torch.equal(torch.as_tensor(first[name]), torch.as_tensor(second[name])) for name in first)


def test_numbers_that_make_no_memory() -> None:
    with pytest.raises(ValueError, match="neighbours: 5 are not fewer than the 5 examples of memory; use 4"):
        NearestNeighbours(memory=5, neighbours=5)
    with pytest.raises(ValueError, match="clusters: 9 of the 16 examples of memory hold fewer than 2 each; use 8 or"):
        DynamicClusters(memory=16, clusters=9)
