"""The benchmark of the routers on digits, small: half its steps, one seed."""

from tests.benchmarks.digits_routers import train


def test_sparse_transport_learns_what_a_dropping_router_misses_and_never_passes_its_capacity() -> None:
    greedy, sparse = train("top-1", seed=0, steps=150), train("sparse OT", seed=0, steps=150)
    assert greedy.dropped > 0.2
    assert sparse.worst_dropped == 0
    assert sparse.worst_load <= 1.25
    assert sparse.accuracy >= greedy.accuracy + 0.02
