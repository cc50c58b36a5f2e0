"""Recording of the collectives that a rank issues during sampled steps."""

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from moe.collective_trace import ROLLOUT, CollectiveRecord, TraceHeader, read, write_lines
from trainer.trace.clock import Clock, Mark
from trainer.trace.context import attach, position
from trainer.trace.operation import NAMESPACES, WAITS, describe


class Recorder:
    """Writes one rank's collectives of sampled steps to a file; hooks nothing outside those steps.

    A dispatch mode sees every call into c10d, by Python, autograd, DeepSpeed or a C++ reducer. `Work.wait` is patched
    during a step to learn the rest:

    - A synchronous call's `t_done_ns` is the end of its wait, or of the call if it leaves nothing to wait for. It stays
      None where no Python code waits (C++ callers).
    - send and recv have no async flag: they count as synchronous if their wait precedes the next record.
    - A call in another stream than the compute stream is asynchronous whatever its flag, until compute waits for that
      stream.
    - An asynchronous record without an observed wait counts as waited for at the end of its step.

    Times are read from the clock after the step, so that the host does not wait for the device within it.

    Args:
        path: the rank's own file (`collective_trace.rank_path`).
        steps: optimiser steps to record; the first two of a run are not representative under ZeRO.
        ranks_per_node: ranks on one node, for the header.
        config_sha256: hash of the resolved configuration, for the header.
        group_names: the project's name (data, expert, expert_data, tensor, world) of each torch process group, with the
            same meaning on every rank; a group not in it keeps torch's name. Groups of one name and the same ranks
            become one group of the trace.
        blocks: the model's blocks in order; their index becomes the record's layer.
        clock: clock of the rank's compute; the host's clock if None.
    """

    def __init__(
        self,
        path: Path,
        *,
        steps: Collection[int],
        ranks_per_node: int,
        config_sha256: str | None = None,
        group_names: Mapping[str, str] | None = None,
        blocks: Sequence[nn.Module] = (),
        clock: Clock | None = None,
    ) -> None:
        self.path = path
        self.steps = frozenset(steps)
        self._clock = clock or Clock()
        self.header = TraceHeader(
            source="recorded",
            world_size=dist.get_world_size(),
            ranks_per_node=ranks_per_node,
            groups={},
            steps=(),
            config_sha256=config_sha256,
            torch=torch.__version__,
            clock=self._clock.name,
        )
        self._rank = dist.get_rank()
        self._group_names = dict(group_names or {})
        self._blocks = blocks
        self._groups: dict[str, tuple[int, ...]] = {}
        self._lines: list[str] = []
        self._written_steps: set[int] = set()
        self._version = 1
        self._seq = 0
        self._step = -1
        self._first_micro = self._micro = 0
        self._drafts: list[_Draft] = []
        self._open: dict[int, tuple[object, _Draft]] = {}  # holding the handle keeps its identity valid
        self._resumed: Mark = None
        self._compute: list[tuple[Mark, Mark]] = []

    def resume(self, step: int) -> None:
        """Keeps what an earlier process of the same run recorded up to `step`; ignores files of other runs."""
        if not self.path.exists():
            return
        header, records = read(self.path)
        if replace(header, groups={}, steps=(), version=1) == self.header:
            self._groups = dict(header.groups)
            kept = [record for record in records if record.step <= step]
            if kept:
                self._keep(kept)
                self.write()
            else:
                self.path.unlink()

    def step(self, step: int, micro: int = 0) -> AbstractContextManager[None]:
        """Records what runs inside, if `step` is sampled: one micro step, the last one with the optimiser's step.

        `micro` may count in the rank's or in the global batch; records count from the rank's first.
        """
        return self._recording(step, micro) if step in self.steps else nullcontext()

    def write(self) -> None:
        """Writes all records so far to the rank's file, if any; blocks until the device has ended the step."""
        self._close_step()
        if self._lines:
            steps = tuple(sorted(self._written_steps))
            header = replace(self.header, groups=self._groups, steps=steps, version=self._version)
            write_lines(self.path, header, self._lines)

    @contextmanager
    def _recording(self, step: int, micro: int) -> Iterator[None]:
        if step != self._step:
            self._close_step()
            self._step, self._first_micro = step, micro
        self._micro = micro - self._first_micro
        watched_streams = self._clock.watching(self.reached, self.joining)
        with attach(self._blocks), _watched_waits(self), watched_streams, _Interception(self):
            torch.empty(0)  # torch imports its tracing machinery (a second) at the first call under a dispatch mode
            self._resumed = self._clock.mark()
            yield
            self._pause()

    def observe(self, function: Any, arguments: dict[str, Any]) -> Any:
        """Runs one c10d call and records it."""
        issued = self._pause()
        result = function(**arguments)
        ended = self._clock.mark_end()
        self._resumed = self._clock.mark()
        call = describe(function.name(), arguments, result, self._rank)
        if call is None:
            return result
        name = self._group_names.get(call.group_name, call.group_name)
        if self._groups.setdefault(name, call.ranks) != call.ranks:
            raise ValueError(
                f"group_names.{name}: names ranks {self._groups[name]} and also {call.ranks} on rank {self._rank}; "
                "give every process group that a rank takes part in a name of its own"
            )
        beside = self._clock.beside()
        record = CollectiveRecord(
            rank=self._rank,
            seq=self._next_seq(),
            step=self._step,
            micro=self._micro,
            phase=position.phase,
            group=name,
            size1=len(call.ranks) == 1,
            asynchronous=call.asynchronous is not False or beside is not None,
            layer=position.layer,
            **call.fields,
        )
        draft = _Draft(record, issued, self._compute, beside, call.asynchronous is None)
        self._compute = []
        self._drafts.append(draft)
        if call.handle is not None:
            self._open[id(call.handle)] = call.handle, draft
        elif call.asynchronous is False:
            draft.done = ended
        return result

    def wait(self, handle: object, run: Any) -> Any:
        """Runs one wait and notes it in the record of the collective that it ends."""
        self._pause()
        result = run()
        done = self._clock.mark_end()
        self._resumed = self._clock.mark()
        _, draft = self._open.pop(id(handle), (None, None))
        if draft is not None:
            draft.done = done
            if self._clock.beside() is None:
                if draft.unflagged and draft is self._drafts[-1] and draft.beside is None:
                    draft.record = replace(draft.record, asynchronous=False)
                draft.waited_before(self._next_seq())
        return result

    def reached(self) -> int:
        """Number of collectives issued so far in the step."""
        return len(self._drafts)

    @contextmanager
    def joining(self, stream: Hashable, reached: int) -> Iterator[None]:
        """While entered, compute waits for another stream, for the step's first `reached` collectives only."""
        awaited = [
            draft for draft in self._drafts[:reached] if draft.beside == stream and draft.record.wait_seq is None
        ]
        if stream is None or not awaited:
            yield
            return
        self._pause()
        yield
        self._resumed = self._clock.mark()
        for draft in awaited:
            draft.waited_before(self._next_seq())

    def _pause(self) -> Mark:
        """Ends an interval of compute, since a collective or a wait begins; returns its end mark."""
        paused = self._clock.mark()
        self._compute.append((self._resumed, paused))
        return paused

    def _next_seq(self) -> int:
        return self._seq + len(self._drafts)

    def _close_step(self) -> None:
        """Ends every collective without an observed wait with the step, and reads all times from the clock."""
        if self._drafts:
            for draft in self._drafts:
                draft.waited_before(self._next_seq())
            self._clock.settle()
            self._keep([draft.timed(self._clock, self._drafts[0].issued) for draft in self._drafts])
        self._clock.forget()
        self._drafts, self._compute = [], []
        self._open.clear()

    def _keep(self, records: Sequence[CollectiveRecord]) -> None:
        """Stores finished records as lines to be written."""
        self._lines += [f"{record.to_json()}\n" for record in records]
        self._written_steps |= {record.step for record in records}
        if any(record.phase == ROLLOUT for record in records):
            self._version = 2
        self._seq = records[-1].seq + 1


@dataclass(slots=True)
class _Draft:
    """A collective of the step being recorded.

    Attributes:
        compute: intervals of compute since the previous collective, as pairs of marks.
        beside: the stream in which it was issued, if compute continues in another.
        unflagged: whether the call has no async flag.
        done: mark of its observed end; None if not observed.
    """

    record: CollectiveRecord
    issued: Mark
    compute: list[tuple[Mark, Mark]]
    beside: Hashable | None
    unflagged: bool
    done: Mark | None = None

    def waited_before(self, seq: int) -> None:
        """Notes that compute waited for it before record `seq`, if it is asynchronous and had no earlier wait."""
        if self.record.asynchronous and self.record.wait_seq is None:
            self.record = replace(self.record, wait_seq=seq)

    def timed(self, clock: Clock, origin: Mark) -> CollectiveRecord:
        """The record with its times, once the clock has settled; `origin` marks the step's first collective."""
        return replace(
            self.record,
            gap_ns=sum(clock.between_ns(resumed, paused) for resumed, paused in self.compute),
            t_issue_ns=clock.between_ns(origin, self.issued),
            t_done_ns=None if self.done is None else clock.between_ns(origin, self.done),
        )


class _Interception(TorchDispatchMode):
    """Passes c10d calls to the recorder, and runs all other operators directly."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Keeps compiled graphs compiled; their collectives still arrive here."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if types and any(kind.__module__.startswith("torch.distributed.") for kind in types):
            return NotImplemented  # DTensor and similar types then call c10d themselves, which comes back here
        kwargs = kwargs or {}
        if func.namespace not in NAMESPACES:
            return func(*args, **kwargs)
        given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        # torch omits arguments that equal their defaults.
        flags = {one.name: one.default_value for one in func._schema.arguments if one.name == "async_op"}
        if func.name() in WAITS:
            return self._recorder.wait(args[0], lambda: func(*args, **kwargs))
        return self._recorder.observe(func, flags | given)


@contextmanager
def _watched_waits(recorder: Recorder) -> Iterator[None]:
    """While entered, the recorder sees every `Work.wait` that Python code calls."""
    original = dist.Work.wait

    def wait(work: dist.Work, *args: Any, **kwargs: Any) -> Any:
        return recorder.wait(work, lambda: original(work, *args, **kwargs))

    dist.Work.wait = wait  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        dist.Work.wait = original
