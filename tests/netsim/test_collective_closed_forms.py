"""Rounds, times and bytes of the schedules against formulae: alpha for each message, beta for each of its bytes."""

from collections import Counter
from itertools import product

from netsim.collective.algorithms import LEAST_PIECE_BYTES, MOST_PIECES, in_order_tree, pieces
from tests.each import each
from tests.netsim.schedules import algorithms, depth, finish, received, schedule, sent

SIZES = [2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 31, 32]
POWERS = [2, 4, 8, 16, 32]
ALPHA, BETA = 700, 3


def floor_log2(size: int) -> int:
    return max(h for h in range(size) if 2**h <= size)


def even_hosts(size: int) -> list[tuple[int, tuple[int, ...]]]:
    """Ranks on each host, and the host of each rank."""
    return [(width, tuple(r // width for r in range(size))) for width in range(1, size + 1) if size % width == 0]


@each("size", SIZES)
def test_ring(size):
    """2 (p-1) (alpha + beta m / p), half of it for either part; everyone sends 2 m (p-1)/p."""
    blocks = (40,) * size
    for op, halves in (("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1)):
        messages = schedule(op, "ring", size, blocks=blocks)
        assert finish(messages, ALPHA, BETA) == halves * (size - 1) * (ALPHA + BETA * 40)
        assert sent(messages, size) == received(messages, size) == [halves * 40 * (size - 1)] * size
        assert all(message.dst == (message.src + 1) % size for message in messages)


@each("size", SIZES)
def test_recursive_doubling(size):
    """log2(p) (alpha + beta m) with powers of two, otherwise one or two rounds more: into the teams and out."""
    messages = schedule("all_reduce", "recursive_doubling", size, blocks=(10,) * size)
    rounds = floor_log2(size)
    if size in POWERS:
        assert finish(messages, ALPHA, BETA) == rounds * (ALPHA + BETA * 10 * size)
        assert sent(messages, size) == [10 * size * rounds] * size
    else:
        assert rounds + 1 <= depth(messages) <= rounds + 2


@each("size", SIZES)
def test_halving_doubling(size):
    """2 log2(p) alpha + 2 beta m (p-1)/p with powers of two, otherwise one or two rounds more."""
    for op, halves in (("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1)):
        messages = schedule(op, "halving_doubling", size, blocks=(10,) * size)
        rounds = halves * floor_log2(size)
        if size in POWERS:
            assert finish(messages, ALPHA, BETA) == rounds * ALPHA + halves * BETA * 10 * (size - 1)
            assert sent(messages, size) == received(messages, size) == [halves * 10 * (size - 1)] * size
        else:
            assert rounds + 1 <= depth(messages) <= rounds + 2


@each("size", SIZES)
def test_direct(size):
    """One round, two for an all-reduce, of p - 1 messages of a block from everyone."""
    for op, halves in (("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1)):
        messages = schedule(op, "direct", size, blocks=(10,) * size)
        assert finish(messages, ALPHA, BETA) == halves * (ALPHA + BETA * 10)
        assert sent(messages, size) == received(messages, size) == [halves * 10 * (size - 1)] * size


@each("size", SIZES)
def test_hierarchical(size):
    """As many bytes as the ring, fewer rounds; only a part 1/L of the vector leaves a host through each of L ranks."""
    for width, hosts in even_hosts(size):
        number = size // width
        for op, halves in (("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1)):
            messages = schedule(op, "hierarchical", size, blocks=(10,) * size, hosts=hosts)
            assert depth(messages) == halves * (width - 1 + number - 1)
            assert sent(messages, size) == received(messages, size) == [halves * 10 * (size - 1)] * size
            outside = [message for message in messages if hosts[message.src] != hosts[message.dst]]
            assert sent(outside, size) == [halves * 10 * (number - 1)] * size


@each("number, size", product([1, 2, 7, MOST_PIECES], SIZES))
def test_tree(size, number):
    """(2 h + k - 1) (alpha + beta m / k) with k pieces and h = floor(log2(p)); everything crosses each edge twice."""
    whole = number * LEAST_PIECE_BYTES
    messages = schedule("all_reduce", "tree", size, blocks=(whole,) + (0,) * (size - 1))
    rounds = 2 * floor_log2(size) + number - 1
    assert finish(messages, ALPHA, BETA) == rounds * (ALPHA + BETA * LEAST_PIECE_BYTES)
    volume: Counter[tuple[int, int]] = Counter()
    for message in messages:
        volume[message.src, message.dst] += message.bytes
    assert set(volume.values()) == {whole}
    assert len(volume) == 2 * (size - 1)


@each("number, size", product([1, 5, MOST_PIECES], SIZES))
def test_double_tree(size, number):
    """The rounds of a tree with half of the vector; nobody sends or receives more than twice the vector."""
    whole = 2 * number * LEAST_PIECE_BYTES
    messages = schedule("all_reduce", "double_tree", size, blocks=(whole,) + (0,) * (size - 1))
    rounds = 2 * floor_log2(size) + number - 1
    assert finish(messages, ALPHA, BETA) == rounds * (ALPHA + BETA * LEAST_PIECE_BYTES)
    assert max(sent(messages, size) + received(messages, size)) <= 2 * whole
    assert sum(sent(messages, size)) == 2 * (size - 1) * whole


@each("size", range(1, 70))
def test_the_two_trees(size):
    """Both are trees of the least height of a binary tree, and nobody is inside both."""
    first = in_order_tree(size)
    parent = dict(first)
    root = (set(range(size)) - set(parent)).pop()
    assert len(parent) == len(first) == size - 1
    heights = []
    for node in parent:
        steps = 0
        while node != root:
            node, steps = parent[node], steps + 1
        heights.append(steps)
    assert max(heights, default=0) == floor_log2(size)
    children = Counter(parent.values())
    assert max(children.values(), default=0) <= 2
    inside = set(parent.values())
    assert not inside & {(node + 1) % size for node in inside}
    messages = schedule("all_reduce", "double_tree", size, blocks=(1000,) + (0,) * (size - 1))
    edges = {(message.src, message.dst) for message in messages if message.blocks == (1,)}
    down = {(parent, child) for child, parent in first}
    assert edges == {((src + 1) % size, (dst + 1) % size) for src, dst in {*first, *down}}


@each("size", SIZES)
def test_two_phases(size):
    """In R rows of C: (C-1) messages of R blocks, then (R-1) of C, from everyone; everything else as direct."""
    rows = max(number for number in range(1, size + 1) if size % number == 0 and number * number <= size)
    grids = [("two_phase", size // rows, ())]
    grids += [("hierarchical", width, hosts) for width, hosts in even_hosts(size)]
    for name, width, hosts in grids:
        height = size // width
        messages = schedule("all_to_all", name, size, matrix=((10,) * size,) * size, hosts=hosts)
        moved = [message for message in messages if message.src != message.dst]
        assert sent(messages, size) == received(messages, size)
        assert sent(messages, size) == [10 * ((width - 1) * height + (height - 1) * width)] * size
        assert len(moved) == size * (width - 1 + height - 1)
        phases = [ALPHA + BETA * 10 * blocks for blocks, peers in ((height, width), (width, height)) if peers > 1]
        assert finish(messages, ALPHA, BETA) == sum(phases)


@each("size", SIZES)
def test_hierarchical_all_to_all_takes_each_byte_out_of_a_host_once(size):
    matrix = tuple(tuple(3 * i + j * j % 7 for j in range(size)) for i in range(size))
    for _, hosts in even_hosts(size):
        messages = schedule("all_to_all", "hierarchical", size, matrix=matrix, hosts=hosts)
        outside = sum(message.bytes for message in messages if hosts[message.src] != hosts[message.dst])
        pairs = ((i, j) for i in range(size) for j in range(size) if hosts[i] != hosts[j])
        assert outside == sum(matrix[i][j] for i, j in pairs)


@each("size", SIZES)
def test_broadcast(size):
    """A binomial tree takes ceil(log2(p)) rounds, a chain p + k - 2 with k pieces, the root alone one."""
    whole = 3 * LEAST_PIECE_BYTES
    rounds = {"tree": (size - 1).bit_length(), "ring": size + 3 - 2, "direct": 1}
    for name, expected in rounds.items():
        messages = schedule("broadcast", name, size, blocks=(whole,))
        assert depth(messages) == expected
        assert received(messages, size) == [0] + [whole] * (size - 1)


@each("size, name", product(SIZES, algorithms("all_reduce")))
def test_no_all_reduce_beats_the_bound_on_bytes(name, size):
    """Somebody sends, and somebody receives, at least 2 m (p-1)/p; sizes of blocks are uneven."""
    blocks = tuple(37 * rank % 101 for rank in range(1, size + 1))
    for _, hosts in even_hosts(size):
        messages = schedule("all_reduce", name, size, blocks=blocks, hosts=hosts)
        assert size * max(sent(messages, size)) >= 2 * sum(blocks) * (size - 1)
        assert size * max(received(messages, size)) >= 2 * sum(blocks) * (size - 1)


@each("whole", [0, 1, LEAST_PIECE_BYTES, 2 * LEAST_PIECE_BYTES - 1, 10**6 + 1, 10**9 + 7])
def test_pieces_are_few_even_and_no_smaller_than_the_least(whole):
    cut = pieces(whole)
    assert sum(cut) == whole
    assert max(cut) - min(cut) <= 1
    assert 1 <= len(cut) <= MOST_PIECES
    assert len(cut) == 1 or min(cut) >= LEAST_PIECE_BYTES
