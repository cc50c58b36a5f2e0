"""A folder with results of many pictures. Ranks fill it together, and the same command completes it later."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
import torch.distributed as dist
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from netsim.foundation.files import replacing, write_json
from netsim.foundation.refusal import Refusal
from netsim.foundation.terminal import Terminal
from trainer.distributed.groups import Launch, data_ranks
from trainer.distributed.process.exit_status import conclude
from trainer.distributed.process.signals import EX_TEMPFAIL, StopRequest
from trainer.sampling.requested_pictures import Pictures

RECORD = "request.json"
"""Record of all that the results are a function of."""
ARRAYS, ENDING = "arrays", ".safetensors"
"""Sub-folder of the results, and what the names of its files end with."""
MADE_BY, OF_REQUEST, OF_PICTURE, PROBLEM = "made_by", "request", "picture", "problem"
"""Key of a file's metadata, and keys below it: digests of request and picture, and why the picture has no results."""


class ResultsFolder:
    """Results of a request: a record of it, and a file for each picture, written under another name and renamed.

    Args:
        path: the folder, which may be missing.
        record: everything that the results are a function of, as JSON can hold it: the request, the digest of the
            weights.
    """

    def __init__(self, path: Path, record: Mapping[str, Any]) -> None:
        self.path = path
        self.record: dict[str, Any] = json.loads(json.dumps(record))
        self._mark = hashlib.sha256(json.dumps(self.record, sort_keys=True).encode()).hexdigest()[:16]

    def check(self) -> None:
        """Refuses a folder that holds results of another request; leaves nothing behind."""
        existing = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        try:
            with TemporaryFile(dir=existing):
                pass
        except OSError as error:
            if existing != self.path or self.path.is_dir():
                problem = f"cannot be written ({error.strerror})"
                raise Refusal(self.path, "--out", problem, "choose a writable path") from error
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise Refusal(self.path, "--out", "is a file", "name a folder")
        record = self.path / RECORD
        if not record.exists():
            return
        try:
            stored = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Refusal(record, "record", f"cannot be read ({error})", "delete the folder") from error
        for field, there, here in _differences(stored, self.record):
            problem = f"is {json.dumps(there)} there but {json.dumps(here)} is asked for"
            raise Refusal(record, field, problem, "give another folder, or ask for the same again")

    def begin(self) -> None:
        """Writes the record, and removes unfinished files; on one rank."""
        for unfinished in [*self.path.rglob(".*.partial")]:
            unfinished.unlink(missing_ok=True)
        write_json(self.path / RECORD, self.record, ensure_ascii=False)

    def has(self, name: str, mark: str = "") -> bool:
        """Whether there are results of a picture; `mark` distinguishes pictures of the same name."""
        if not self.file_of(name).exists():
            return False
        metadata = self._metadata(name)
        return metadata.get(OF_REQUEST) == self._mark and metadata.get(OF_PICTURE) == mark

    def problem(self, name: str) -> str:
        """Why a processed picture has no results; empty if it has some."""
        return self._metadata(name).get(PROBLEM, "")

    def write(self, name: str, results: Mapping[str, Tensor], mark: str = "", *, problem: str = "") -> None:
        """Writes the results of a picture; none where there is a problem."""
        held = {key: value.detach().cpu().contiguous() for key, value in results.items()}
        mark_of = {OF_REQUEST: self._mark, OF_PICTURE: mark, PROBLEM: problem}
        with replacing(self.file_of(name)) as temporary:
            save_file(held, temporary, metadata={MADE_BY: json.dumps(mark_of)})  # several would stand in any order

    def read(self, name: str, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
        """The tensors written for a picture, by name; `wanted` limits them to some names."""
        with self._opened(name) as opened:
            names = [key for key in opened.keys() if wanted is None or key in wanted]  # noqa: SIM118  no mapping
            return {key: opened.get_tensor(key) for key in names}

    def names(self) -> list[str]:
        """Names of the processed pictures, sorted."""
        files = (self.path / ARRAYS).rglob(f"*{ENDING}")
        return sorted(file.relative_to(self.path / ARRAYS).as_posix().removesuffix(ENDING) for file in files)

    def _metadata(self, name: str) -> dict[str, str]:
        with self._opened(name) as opened:
            return json.loads((opened.metadata() or {})[MADE_BY])

    @contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        file = self.file_of(name)
        try:
            with safe_open(file, framework="pt") as opened:
                yield opened
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise Refusal(file, "results", f"cannot be read ({error})", "delete it; it is then made again") from error

    def file_of(self, name: str) -> Path:
        """The file of the results of a picture."""
        return self.path / ARRAYS / f"{name}{ENDING}"


def _differences(there: Any, here: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Differences of two documents: the dotted field and both values; a missing value is null."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys([*there, *here]):
            yield from _differences(there.get(key), here.get(key), f"{field}.{key}" if field else key)
    elif there != here:
        yield field, there, here


def work_through(
    pictures: Pictures,
    results: ResultsFolder,
    do: Callable[[Tensor], Callable[[], None]],
    *,
    together: int,
    model: nn.Module,
    launch: Launch,
    title: str,
) -> int:
    """Does the work on every picture that has no results yet; collective, inside joined process groups.

    Batches depend on the order of pictures and `together` alone, so that results are bitwise equal on any number of
    ranks and after a killed start. Ranks that share a network call it equally often: a rank without a batch repeats
    that of another. `do` computes the results of a batch of rows, int64 [B], and returns a function that writes them.
    Returns 75 if a rank was stopped, and 0 otherwise; finished batches are kept.
    """
    ranks = data_ranks()
    batches = torch.arange(len(pictures)).split(together)
    unfinished = [
        number
        for number, rows in enumerate(batches)
        if not all(results.has(pictures.names[row], pictures.marks[row]) for row in rows.tolist())
    ]
    codes = [unfinished]
    dist.broadcast_object_list(codes)  # ranks that look at different times would share out different work
    numbers = codes[0]
    rounds = -(-len(numbers) // ranks.size())
    writes = launch.rank == dist.get_process_group_ranks(_alike())[0]
    own = [*numbers[ranks.rank() :: ranks.size()]]
    stop = StopRequest()
    with stop.listening(), _shown(launch, title, [len(batches[number]) for number in own]) as advance:
        for number in range(rounds):
            with suppress(Interrupted), interrupting(model, stop) if launch.world_size == 1 else nullcontext():
                write = do(batches[own[number] if number < len(own) else numbers[-1]])
                if writes and number < len(own):
                    write()
                advance()
            if _stopped_anywhere(stop):
                conclude(EX_TEMPFAIL, stop.farewell(results.path, "its finished pictures are kept"))
                return EX_TEMPFAIL
    dist.barrier()
    return 0


def _alike() -> dist.ProcessGroup:
    """The ranks that share matrices and work on the same pictures."""
    from megatron.core import parallel_state

    group = parallel_state.get_tensor_model_parallel_group()
    assert isinstance(group, dist.ProcessGroup)
    return group


def _stopped_anywhere(stop: StopRequest) -> bool:
    stopped = [False] * dist.get_world_size()
    dist.all_gather_object(stopped, stop.made)
    return any(stopped)


class Interrupted(Exception):  # noqa: N818  it was asked for
    """A request to stop came during the work on a batch."""


@contextmanager
def interrupting(model: nn.Module, stop: StopRequest) -> Iterator[None]:
    """While entered, a request to stop ends the work at the next call of the network, by `Interrupted`."""

    def check(*_: object) -> None:
        if stop.made:
            raise Interrupted

    hook = model.register_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _shown(launch: Launch, title: str, sizes: Sequence[int]) -> Iterator[Callable[[], None]]:
    """A bar on the terminal of the first rank, for the pictures of that rank."""
    quiet = launch.rank > 0 or not sys.stderr.isatty()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    left = iter(sizes)
    with Progress(*columns, console=Terminal(stderr=True, quiet=quiet), transient=True, disable=quiet) as progress:
        task = progress.add_task(title, total=sum(sizes))
        yield lambda: progress.advance(task, next(left, 0))
