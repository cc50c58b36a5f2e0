"""The recorder on a device, whose streams are played by hand: every time below was added up on paper, in ns.

The device works off what is enqueued: kernels take the time that they are given, collectives run one after the other in
a stream of their own, as NCCL's do, and begin when the stream that issues them gets there.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from moe.collective_trace import CollectiveRecord, TraceHeader, rank_path, read
from tests.each import each
from tests.ranks import run_ranks
from trainer.trace.clock import Clock, DeviceClock, clock_of
from trainer.trace.merge import merge
from trainer.trace.operation import describe
from trainer.trace.recorder import Recorder


class Stream:
    """A queue of work, by the time when it will be empty."""

    def __init__(self) -> None:
        self.empty_ns = 0

    def wait_stream(self, other: "Stream") -> None:
        event = Event()
        event.record(other)
        event.wait(self)

    def synchronize(self) -> None:
        device.host_ns = max(device.host_ns, self.empty_ns)


class Event:
    """A place in a stream."""

    made = 0

    def __init__(self, *, enable_timing: bool = False) -> None:
        Event.made += enable_timing
        self.ns: int | None = None

    def record(self, stream: Stream | None = None) -> None:
        self.ns = max((stream or device.stream).empty_ns, device.host_ns)

    def wait(self, stream: Stream | None = None) -> None:
        into = stream or device.stream
        into.empty_ns = max(into.empty_ns, self.ns or 0)

    def synchronize(self) -> None:
        device.host_ns = max(device.host_ns, self.ns or 0)

    def elapsed_time(self, later: "Event") -> float:
        assert not device.busy, "asked before the device has ended"
        assert self.ns is not None
        assert later.ns is not None
        return (later.ns - self.ns) / 1e6


class Device:
    """What torch would offer as a module of its own."""

    def __init__(self) -> None:
        self.Stream, self.Event = Stream, Event
        self.main = self.stream = Stream()
        self.network = Stream()
        self.host_ns, self.busy, self.waits = 0, False, 0

    def current_stream(self) -> Stream:
        return self.stream

    def synchronize(self) -> None:
        self.busy, self.waits = False, self.waits + 1

    def compute(self, ns: int) -> None:
        self.busy = True
        self.stream.empty_ns = max(self.stream.empty_ns, self.host_ns) + ns

    @contextmanager
    def using(self, stream: Stream) -> Iterator[None]:
        before, self.stream = self.stream, stream
        yield
        self.stream = before


device = Device()


class Network(TorchDispatchMode):
    """Lets every collective take a time of its own in the stream of the network."""

    def __init__(self, *lasting_ns: int) -> None:
        super().__init__()
        self.lasting_ns = list(lasting_ns)
        self.ends: dict[int, tuple[Any, Event]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace == "c10d":
            named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False))
            call = describe(func.name(), named | (kwargs or {}), result, 0)
            assert call is not None
            device.network.wait_stream(device.stream)
            device.network.empty_ns += self.lasting_ns.pop(0)
            end = Event()
            end.record(device.network)
            self.ends[id(call.handle)] = call.handle, end
        return result

    def wait(self, work: dist.Work, *_args: Any) -> bool:
        self.ends[id(work)][1].wait()
        return True


def reduce(*, later: bool = False) -> Any:
    return dist.all_reduce(torch.zeros(1), async_op=later)


def one_after_the_other() -> None:
    device.compute(10)
    reduce()
    device.compute(3)
    reduce()


def one_that_outlives_another() -> None:
    device.compute(10)
    work = reduce(later=True)
    device.compute(6)
    reduce()
    device.compute(2)
    work.wait()
    device.compute(1)
    reduce()


def one_that_compute_must_wait_for() -> None:
    device.compute(10)
    work = reduce(later=True)
    device.compute(6)
    work.wait()
    device.compute(1)
    reduce()


def beside_the_compute() -> None:
    """As engines do that overlap: a stream waits for the compute, and sends; the compute waits for that stream."""
    side = Stream()
    device.compute(10)
    side.wait_stream(device.main)
    with device.using(side):
        reduce()
    device.compute(5)
    device.main.wait_stream(side)
    device.compute(2)
    reduce()


def two_beside_the_compute() -> None:
    """Compute waits for the first by an event that was recorded before the second."""
    side, first = Stream(), Event()
    with device.using(side):
        reduce()
        first.record()
        reduce()
    device.compute(5)
    first.wait()
    device.compute(2)
    reduce()
    side.synchronize()
    device.compute(1)
    reduce()


# The program, how long its collectives last, and (gap_ns, t_issue_ns, t_done_ns, wait_seq) of each.
PROGRAMS: list[tuple[Callable[[], None], tuple[int, ...], list[tuple[int, int, int, int | None]]]] = [
    (one_after_the_other, (5, 7), [(10, 0, 5, None), (3, 8, 15, None)]),
    (one_that_outlives_another, (20, 4, 5), [(10, 0, 26, 2), (6, 6, 24, None), (3, 27, 32, None)]),
    (one_that_compute_must_wait_for, (20, 5), [(10, 0, 20, 1), (7, 21, 26, None)]),
    (beside_the_compute, (20, 1), [(10, 0, 20, 1), (7, 22, 23, None)]),
    (two_beside_the_compute, (9, 30, 4, 4), [(0, 0, 9, 2), (0, 0, 39, 3), (7, 11, 43, None), (1, 44, 48, None)]),
]


Told = tuple[list[tuple[list[CollectiveRecord], TraceHeader]], CollectiveRecord]


def record_programs(_rank: int, _world_size: int, folder: str) -> Told:
    """Two steps of every program, of which the second needs no further events; and a call without work."""
    global device
    told, made = [], 0
    for index, (program, lasting_ns, _) in enumerate(PROGRAMS):
        device = Device()
        path = rank_path(Path(folder) / str(index), 0)
        recorder = Recorder(path, steps=[1, 2], ranks_per_node=1, clock=DeviceClock(device))
        original = dist.Work.wait
        for step in (1, 2):
            device.main.empty_ns = device.network.empty_ns = device.host_ns = 1000 * step
            with Network(*lasting_ns) as network:
                dist.Work.wait = network.wait  # pyright: ignore[reportAttributeAccessIssue]
                with recorder.step(step):
                    program()
                dist.Work.wait = original
            assert device.waits == step - 1, "the host waited within the step"
            recorder.write()
            assert device.waits == step
            assert step == 1 or Event.made == made
            made = Event.made
        merge(path.parent, 1)
        header, records = read(path.parent / "collectives.jsonl")
        told.append((records, header))
    device = Device()
    return told, record_without_work(folder)


def record_without_work(folder: str) -> CollectiveRecord:
    """A call that runs in the stream in use and leaves nothing to wait for, as NCCL's synchronous ones do."""

    def call(tensors: list[torch.Tensor], **_: Any) -> tuple[list[torch.Tensor], None]:
        device.compute(5)
        return tensors, None

    call.name = lambda: "c10d::allreduce_"
    recorder = Recorder(Path(folder) / "trace.jsonl", steps=[1], ranks_per_node=1, clock=DeviceClock(device))
    with recorder.step(1):
        device.compute(10)
        recorder.observe(call, {"tensors": [torch.zeros(1)], "process_group": dist.group.WORLD, "async_op": False})
    recorder.write()
    return read(recorder.path)[1][0]


def test_a_call_that_leaves_nothing_to_wait_for_ends_where_its_stream_goes_on(recordings: Told) -> None:
    _, record = recordings
    assert (record.gap_ns, record.t_issue_ns, record.t_done_ns, record.wait_seq) == (10, 0, 5, None)


def test_a_cpu_has_the_time_of_the_host() -> None:
    assert type(clock_of(torch.device("cpu"))) is Clock


def test_a_trace_of_a_host_says_nothing_of_its_clock() -> None:
    """So that it stays what it was before devices had one."""
    header = TraceHeader("recorded", 1, 1, {"data": (0,)}, (1,), None, None)
    assert "clock" not in header.to_json()
    assert '"clock":"device"' in replace(header, clock="device").to_json()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Told:
    (told,) = run_ranks(record_programs, 1, str(tmp_path_factory.mktemp("programs")))
    return told


@each("index", range(len(PROGRAMS)), ids=[program[0].__name__ for program in PROGRAMS])
def test_times_are_those_of_the_device(index: int, recordings: Told) -> None:
    records, header = recordings[0][index]
    expected = PROGRAMS[index][2]
    assert header.clock == "device"
    for step, first in ((1, 0), (2, len(expected))):
        of_step = [record for record in records if record.step == step]
        assert [
            (record.gap_ns, record.t_issue_ns, record.t_done_ns, record.wait_seq and record.wait_seq - first)
            for record in of_step
        ] == expected
        assert [record.asynchronous for record in of_step] == [seq is not None for *_, seq in expected]
