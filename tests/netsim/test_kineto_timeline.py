"""What is computed before and beside collectives: against counting nanoseconds, and a plain executor of programs."""

import random
from itertools import pairwise, product
from pathlib import Path

from netsim.workload.kineto.convert import import_kineto
from netsim.workload.kineto.profile import Call, Profile, Wait, Work
from netsim.workload.kineto.timeline import exposed, merged, overlap_ns, program
from netsim.workload.records import read_trace
from netsim.workload.trace import TraceConfig, TraceWorkload
from tests.each import each
from tests.netsim.foreign import INSIDE, SERVICE, laid_out, run
from tests.netsim.kineto_profiles import ProfileWriter

US = 10**6


def drawn(seed: int, waits: bool = False) -> Profile:
    """Kernels and collectives at random, each stream one after the other."""
    random_ = random.Random(seed)
    lanes: dict[str, list[tuple[int, int]]] = {}
    for stream in ("7", "8", "27", "28"):
        ns, lanes[stream] = random_.randrange(30), []
        for _ in range(random_.randrange(1, 8)):
            length = random_.randrange(1, 30)
            lanes[stream].append((ns, ns + length))
            ns += length + random_.choice((0, 0, 1, 20))
    work = sorted(Work(*span, stream, 100 + span[0]) for stream in ("7", "8") for span in lanes[stream])
    spans = sorted((*span, stream) for stream in ("27", "28") for span in lanes[stream])
    calls = [
        Call(place, "all_reduce", "record", {}, begin, end, 0, "forward", stream, begin, end - begin)
        for place, (begin, end, stream) in enumerate(spans)
    ]
    listed = []
    if waits:
        listed = [Wait("7", 100 + call.end_ns, call.stream, call.launch) for call in calls if random_.random() < 0.5]
    return Profile(Path("x"), 0, 1, "", {}, calls, work, listed, 0, has_kernels=True)


@each("seed", range(20))
def test_spans_meet_and_communication_is_exposed_as_counted(seed):
    profile = drawn(seed)
    moving = {ns for call in profile.calls for ns in range(call.start_ns, call.end_ns)}
    computing = {ns for one in profile.work for ns in range(one.start_ns, one.end_ns)}
    assert exposed(profile) == (max(moving | computing) + 1, len(moving - computing))
    spans = merged([(one.start_ns, one.end_ns) for one in profile.work])
    assert overlap_ns(merged([(call.start_ns, call.end_ns) for call in profile.calls]), spans) == len(
        moving & computing
    )
    assert all(end < begin for (_, end), (begin, _) in pairwise(spans))


def carried_out(profile: Profile, took_ns: dict[int, int]) -> int:
    """When a rank ends whose collectives take these times: a plain reading of what steps mean."""
    now_ns, over, due = 0, dict[int, int](), dict[int, list[int]]()
    steps = program(profile, profile.calls)
    for number, step in enumerate(steps):
        now_ns = max([now_ns, *(over[one] for one in due.pop(number, []))]) + step.gap_ns
        if step.call is not None:
            over[number] = now_ns + took_ns[step.call]
            if step.wait is None:
                now_ns = over[number]
            else:
                assert step.wait > number
                due.setdefault(step.wait, []).append(number)
    return max([now_ns, *over.values()])


@each("waits, seed", product([False, True], range(30)))
def test_a_program_with_the_recorded_times_takes_what_was_recorded(seed, waits):
    profile = drawn(seed, waits)
    took = {number: call.end_ns - call.start_ns for number, call in enumerate(profile.calls)}
    assert carried_out(profile, took) == profile.end_ns
    computing = sum(end - begin for begin, end in merged([(one.start_ns, one.end_ns) for one in profile.work]))
    at_once = carried_out(profile, dict.fromkeys(took, 0))
    assert computing <= at_once <= profile.end_ns
    assert carried_out(profile, {number: 2 * ns for number, ns in took.items()}) >= profile.end_ns


def test_events_between_streams_say_what_waits(tmp_path):
    """The second kernel would wait for the all-reduce that ended before it; by the events the third one does."""
    for event in (False, True):
        writer = ProfileWriter(0, 2, {"0": [0, 1]})
        writer.event("ProfilerStep#1", "user_annotation", 0, 400)
        writer.call("allreduce", (2000, 2000), 1, (0, 100), more={"correlation": 1, "stream": 20})
        for launch, (begin, length) in enumerate(((0, 150), (150, 50), (200, 50)), start=2):
            writer.computed(begin, length, launch=10 * launch)
        if event:
            waits = {"stream": 7, "wait_on_stream": 20, "wait_on_cuda_event_record_corr_id": 5, "correlation": 35}
            writer.event("Stream Wait Event", "cuda_sync", 3, 0, **waits)
        writer.write(tmp_path / "rank0.json")
        import_kineto(tmp_path / "rank0.json", tmp_path / "trace.jsonl")
        program = [record for _, record in read_trace(tmp_path / "trace.jsonl").programs[0]]
        beside = 200_000 if event else 150_000
        assert [(record.op, record.wait_seq, record.gap_ns) for record in program] == [
            ("all_reduce", 2, 0),
            ("barrier", None, beside),
            ("barrier", None, 250_000 - beside),
        ]


@each("beside", [0, 20, 1000])
def test_computing_beside_a_collective_hides_it(beside, tmp_path):
    """Two all-reduces of two rounds of 4 kB; the second begins 10 us after all before it has ended."""
    over = max(150, 100 + beside)
    for rank in range(2):
        writer = ProfileWriter(rank, 2, {"0": [0, 1]})
        writer.event("ProfilerStep#0", "user_annotation", 0, 400)
        writer.computed(0, 100)
        writer.call("allreduce", (2000, 2000), 1, (100, 50))
        if beside:
            writer.computed(100, beside)
        writer.call("allreduce", (2000, 2000), 2, (over + 10, 50))
        writer.computed(over + 60, 40)
        writer.write(tmp_path / "profiles" / f"{rank}.json")
    import_kineto(tmp_path / "profiles", tmp_path / "trace.jsonl")
    made = laid_out(TraceWorkload(TraceConfig(kind="trace", path=str(tmp_path / "trace.jsonl"))), 2)
    all_reduce = 2 * (SERVICE + INSIDE)
    assert run(made, 2).completion_ps == 150 * US + max(all_reduce, beside * US) + all_reduce
