"""Recording the collectives that a rank issues during sampled steps."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from moe.collective_trace import CollectiveRecord, TraceHeader, read, write
from trainer.trace.context import attach, position
from trainer.trace.operation import NAMESPACES, WAITS, describe


class Recorder:
    """Writes one rank's collectives of sampled steps to a file; outside those steps nothing is active.

    A dispatch mode sees every call into c10d, whoever makes it: Python, autograd, DeepSpeed or a C++ reducer. What
    cannot be seen in the call is seen in `Work.wait`, watched for the length of the step:

    - A synchronous call returns before the collective has ended and torch's wrapper then waits, so `t_done_ns` is
      the end of that wait. It stays None where no Python code waits (C++ callers; NCCL calls that return no Work),
      and with NCCL all times are the host's, not the network's.
    - send and recv carry no flag: one whose wait comes before the next record is written as synchronous.
    - An async record whose wait is never seen counts as waited for by the end of its step.

    Args:
        path: the rank's own file (`record.rank_path`).
        steps: optimiser steps to record; the first two of a run are not representative under ZeRO.
        ranks_per_node: ranks on one node, for the header.
        config_sha256: hash of the resolved configuration, for the header.
        group_names: torch's process group names to the project's (data, expert, expert_data, tensor, world), the
            same meaning on every rank; unnamed groups keep torch's name. Groups that share a name and their ranks
            become one group of the trace.
        blocks: the model's blocks in order; the index becomes the record's layer.
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
    ) -> None:
        self.path = path
        self.steps = frozenset(steps)
        self.header = TraceHeader(
            source="recorded",
            world_size=dist.get_world_size(),
            ranks_per_node=ranks_per_node,
            groups={},
            steps=(),
            config_sha256=config_sha256,
            torch=torch.__version__,
        )
        self._rank = dist.get_rank()
        self._group_names = dict(group_names or {})
        self._blocks = blocks
        self._groups: dict[str, tuple[int, ...]] = {}
        self._records: list[CollectiveRecord] = []
        self._open: dict[int, _Open] = {}
        self._clock = _Clock(step=-1)
        self._first_micro = self._micro = 0

    def resume(self, step: int) -> None:
        """Take over what an earlier process of the same run recorded up to optimiser step `step`.

        A file of another configuration, world size or torch version is left out: a trace speaks of one run only.
        """
        if not self.path.exists():
            return
        header, records = read(self.path)
        if replace(header, groups={}, steps=()) == self.header:
            self._groups = dict(header.groups)
            self._records = [record for record in records if record.step <= step]
            if self._records:
                self.write()
            else:
                self.path.unlink()

    def step(self, step: int, micro: int = 0) -> AbstractContextManager[None]:
        """Record what runs inside, if `step` is sampled: one micro step, the last one with the optimiser's step.

        Args:
            step: optimiser step.
            micro: number of the micro step, in the rank's or in the global batch; records count from the rank's first.
        """
        return self._recording(step, micro) if step in self.steps else nullcontext()

    def write(self) -> None:
        """Write all records so far to the rank's file, if there are any."""
        self._close_step()
        if self._records:
            steps = tuple(sorted({record.step for record in self._records}))
            write(self.path, replace(self.header, groups=self._groups, steps=steps), self._records)

    @contextmanager
    def _recording(self, step: int, micro: int) -> Iterator[None]:
        if step != self._clock.step:
            self._close_step()
            self._clock = _Clock(step)
            self._first_micro = micro
        self._micro = micro - self._first_micro
        with attach(self._blocks), _watched_waits(self), _Interception(self):
            torch.empty(0)  # torch imports its tracing machinery (a second) at the first call under a dispatch mode
            self._clock.resume()
            yield
            self._clock.pause()

    def observe(self, function: Any, arguments: dict[str, Any]) -> Any:
        """Run one c10d call and record it."""
        issued = self._clock.pause()
        result = function(**arguments)
        self._clock.resume()
        call = describe(function.name(), arguments, result, self._rank)
        if call is None:
            return result
        name = self._group_names.get(call.group_name, call.group_name)
        if self._groups.setdefault(name, call.ranks) != call.ranks:
            raise ValueError(
                f"group_names.{name}: stands for ranks {self._groups[name]} and {call.ranks} on rank {self._rank}; "
                "give every process group that a rank takes part in a name of its own"
            )
        record = CollectiveRecord(
            rank=self._rank,
            seq=self._next_seq(),
            step=self._clock.step,
            micro=self._micro,
            phase=position.phase,
            group=name,
            size1=len(call.ranks) == 1,
            asynchronous=call.asynchronous is not False,
            gap_ns=self._clock.take_compute(),
            t_issue_ns=self._clock.since_origin(issued),
            layer=position.layer,
            **call.fields,
        )
        self._records.append(record)
        if call.handle is not None:
            self._open[id(call.handle)] = _Open(call.handle, len(self._records) - 1, call.asynchronous is None)
        return result

    def wait(self, handle: object, run: Any) -> Any:
        """Run one wait and note it in the record of the collective that it ends."""
        self._clock.pause()
        result = run()
        done = self._clock.resume()
        opened = self._open.pop(id(handle), None)
        if opened is not None:
            record = replace(self._records[opened.index], t_done_ns=self._clock.since_origin(done))
            if record.asynchronous:
                immediate = opened.unflagged and opened.index == len(self._records) - 1
                record = (
                    replace(record, asynchronous=False) if immediate else replace(record, wait_seq=self._next_seq())
                )
            self._records[opened.index] = record
        return result

    def _next_seq(self) -> int:
        return self._records[-1].seq + 1 if self._records else 0

    def _close_step(self) -> None:
        """Let every collective that nobody was seen to wait for end with its step."""
        for index in range(len(self._records) - 1, -1, -1):
            record = self._records[index]
            if record.step != self._clock.step:
                break
            if record.asynchronous and record.wait_seq is None:
                self._records[index] = replace(record, wait_seq=self._next_seq())
        self._open.clear()


@dataclass(frozen=True, slots=True)
class _Open:
    """A collective that was issued and not yet waited for; holding the handle keeps its identity valid."""

    handle: object
    index: int
    unflagged: bool


class _Clock:
    """Time within one step, in ns, and how much of it went into compute since the last record ended."""

    def __init__(self, step: int) -> None:
        self.step = step
        self._origin: int | None = None
        self._resumed = 0
        self._compute = 0

    def resume(self) -> int:
        """The program computes again."""
        self._resumed = perf_counter_ns()
        return self._resumed

    def pause(self) -> int:
        """The program hands over to a collective or a wait."""
        now = perf_counter_ns()
        self._compute += now - self._resumed
        return now

    def take_compute(self) -> int:
        """Compute since the last call."""
        compute, self._compute = self._compute, 0
        return compute

    def since_origin(self, now: int) -> int:
        """Time since the first record of the step, which the first call sets."""
        if self._origin is None:
            self._origin = now
        return now - self._origin


class _Interception(TorchDispatchMode):
    """Hands c10d calls to the recorder and lets everything else pass at once."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Compiled graphs stay compiled while they are watched; the collectives in them come here all the same."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if types and any(kind.__module__.startswith("torch.distributed.") for kind in types):
            return NotImplemented  # DTensor and its kind call c10d themselves, which only then comes here
        kwargs = kwargs or {}
        if func.namespace not in NAMESPACES:
            return func(*args, **kwargs)
        arguments = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
        if func.name() in WAITS:
            return self._recorder.wait(args[0], lambda: func(*args, **kwargs))
        return self._recorder.observe(func, arguments)


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
