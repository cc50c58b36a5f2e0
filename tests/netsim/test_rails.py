"""All-to-alls through the GPU on the receiver's rail (PXN): which links carry what, and what is refused."""

from collections import Counter

import pytest

from netsim import simulate
from netsim.collective.protocol import Operation
from netsim.collective.two_level import rails_all_to_all
from netsim.foundation.refusal import Refusal
from tests.each import each
from tests.netsim.schedules import execute, schedule
from tests.netsim.test_adapters import HOSTS, PER_HOST, scenario, sent

PXN = {"algorithms": {"all_to_all": "pxn"}}
BLOCK = 4000


def across(carried: dict[str, int]) -> Counter[str]:
    """Bytes from each leaf to the spines."""
    crossing: Counter[str] = Counter()
    for name, size in carried.items():
        if name.startswith("leaf") and "-spine" in name:
            crossing[name.partition("-")[0]] += size
    return crossing


def test_links_carry_what_the_closed_forms_say():
    """24 ranks on 6 hosts in two pods, two on each of two rails of a host, 4 kB for each other rank."""
    carried = sent(scenario() | PXN)
    for host in range(HOSTS):
        gpus = [f"host{host}.gpu{gpu}" for gpu in range(PER_HOST)]
        up = [carried[f"{gpu}-host{host}.switch"] for gpu in gpus]
        down = [carried[f"host{host}.switch-{gpu}"] for gpu in gpus]
        assert up == [(3 + 10) * BLOCK] * 4  # three neighbours, and the ten ranks of other hosts on the other rail
        assert sum(down) == sum(up)
        for adapter in range(2):
            leaf = f"leaf{host // 3 * 2 + adapter}"
            assert carried[f"host{host}.{adapter}-{leaf}"] == 4 * 10 * BLOCK  # of four ranks for ten on the rail
            assert carried[f"{leaf}-host{host}.{adapter}"] == 2 * 20 * BLOCK
    assert across(carried) == {f"leaf{leaf}": 12 * 6 * BLOCK for leaf in range(4)}  # to the six on the rail of a pod
    assert sum(across(sent(scenario())).values()) == 4 * 6 * 16 * BLOCK


def test_in_one_pod_nothing_crosses_a_spine():
    assert sum(across(sent(scenario(leaves=2))).values()) > 0
    assert sum(across(sent(scenario(leaves=2) | PXN)).values()) == 0


@each("engine", ["exact", "event", "simpy", "windowed"])
def test_no_run_is_faster_than_the_bound(engine):
    what = scenario("all_to_all", "48KB") | PXN
    if engine == "exact":
        with pytest.raises(Refusal):
            simulate(what | {"engine": engine})
        return
    (run,) = simulate(what | {"engine": engine}).runs
    (same,) = simulate(what).runs
    assert run.completion_ps == same.completion_ps >= run.bound_ps > 0


def test_a_host_without_a_rank_on_the_rail_sends_directly():
    """Four ranks: two of host 0, on rails 0 and 1, and two of host 1, both on rail 1."""
    size, hosts, rails = 4, (0, 0, 1, 1), (0, 1, 1, 1)
    matrix = tuple(tuple(10 * i + j for j in range(size)) for i in range(size))
    messages = schedule("all_to_all", "pxn", size, matrix=matrix, hosts=hosts, rails=rails)
    moved = Counter({(one.src, one.dst): 0 for one in messages})
    for one in messages:
        moved[one.src, one.dst] += one.bytes
    assert moved == {
        (0, 1): matrix[0][1] + matrix[0][2] + matrix[0][3],  # its own block, and what rank 1 sends on along rail 1
        (1, 2): matrix[1][2] + matrix[0][2],
        (1, 3): matrix[1][3] + matrix[0][3],
        (1, 0): matrix[1][0],
        (2, 0): matrix[2][0],  # nobody of host 1 is on rail 0
        (3, 0): matrix[3][0],
        (2, 1): matrix[2][1],
        (3, 1): matrix[3][1],
        (2, 3): matrix[2][3],
        (3, 2): matrix[3][2],
    }
    held = execute(messages, {(i, j): frozenset((i,)) for i in range(size) for j in range(size)}).held
    assert all(held[rank, rank] == frozenset(range(size)) for rank in range(size))


def test_without_hosts_it_is_direct():
    messages = rails_all_to_all(Operation("all_to_all", 3, matrix=((1, 2, 3),) * 3))
    assert sorted((one.src, one.dst, one.bytes) for one in messages) == [
        (i, j, j + 1) for i in range(3) for j in range(3) if i != j
    ]


def test_hosts_of_one_adapter_have_no_rails():
    with pytest.raises(Refusal) as told:
        simulate(scenario(adapters_per_host=1, rails=False, ranks_per_host=4) | PXN)
    assert "algorithms.all_to_all: pxn goes through the GPUs of a host" in str(told.value)
    assert "set topology.adapters_per_host, or write direct" in str(told.value)
