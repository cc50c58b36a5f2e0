"""Work on many pictures: shared out over the ranks, left alone where it is done, shown while it goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
import torch.distributed as dist
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from netsim.foundation.terminal import Terminal
from trainer.distributed.groups import Launch, data_ranks
from trainer.distributed.process.exit_status import conclude
from trainer.distributed.process.signals import EX_TEMPFAIL, StopRequest
from trainer.sampling.requested_pictures import Pictures
from trainer.sampling.results_folder import ResultsFolder


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

    Pictures pass through the network in batches that depend on their order and `together` alone, so that neither ranks
    nor an earlier start that was killed change a bit. Ranks that share a network call it equally often: one that has no
    batch left repeats another's.

    Args:
        results: the folder, which is begun; there is a file for each picture at the end.
        do: computes the results of a batch of rows, int64 [B], and returns what writes them.
        model: the network, at whose calls a process alone is interrupted.

    Returns:
        0 if all is done, 75 if a rank was stopped; the batches that are finished are then kept.
    """
    ranks = data_ranks()
    batches = torch.arange(len(pictures)).split(together)
    found = [_unfinished(batches, pictures, results)]
    dist.broadcast_object_list(found)  # ranks that look at different times would share out different work
    numbers = found[0]
    rounds = -(-len(numbers) // ranks.size())
    writes = launch.rank == dist.get_process_group_ranks(_alike())[0]
    own = [*numbers[ranks.rank() :: ranks.size()]]
    stop = StopRequest()
    with stop.listening(), _shown(launch, title, [len(batches[number]) for number in own]) as advance:
        for number in range(rounds):
            with suppress(_Interrupted), _interrupting(model, stop, alone=launch.world_size == 1):
                write = do(batches[own[number] if number < len(own) else numbers[-1]])
                if writes and number < len(own):
                    write()
                advance()
            if _told_anywhere(stop):
                conclude(EX_TEMPFAIL, stop.farewell(results.path, "its finished pictures are kept"))
                return EX_TEMPFAIL
    dist.barrier()
    return 0


def _unfinished(batches: Sequence[Tensor], pictures: Pictures, results: ResultsFolder) -> list[int]:
    """Numbers of the batches with a picture that has no results."""
    return [
        number
        for number, rows in enumerate(batches)
        if not all(results.has(pictures.names[row], pictures.marks[row]) for row in rows.tolist())
    ]


def _alike() -> dist.ProcessGroup:
    """The ranks that share matrices and work on the same pictures."""
    from megatron.core import parallel_state

    group = parallel_state.get_tensor_model_parallel_group()
    assert isinstance(group, dist.ProcessGroup)
    return group


def _told_anywhere(stop: StopRequest) -> bool:
    told = [False] * dist.get_world_size()
    dist.all_gather_object(told, stop.made)
    return any(told)


class _Interrupted(Exception):  # noqa: N818  it was asked for
    """This process was told to stop while it worked on a batch."""


@contextmanager
def _interrupting(model: nn.Module, stop: StopRequest, *, alone: bool) -> Iterator[None]:
    """While entered, a request to stop ends the work of a process alone at the next call of the network."""

    def check(*_: object) -> None:
        if stop.made and alone:
            raise _Interrupted

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
