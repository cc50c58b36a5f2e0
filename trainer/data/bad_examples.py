"""Which examples a run could not read."""

from __future__ import annotations

import sys
from pathlib import Path

import torch.distributed as dist

from netsim.foundation.files import replacing
from trainer.data.loader import check_bad_share
from trainer.data.protocol import Batch


class BadExampleList:
    """The bad examples that a run has met, on all ranks: said once, listed in a file, counted."""

    def __init__(self, path: Path, *, started: int, num_examples: int, max_bad_share: float) -> None:
        """Resumes the list of an earlier start; lines of steps after `started`, in optimiser steps, are struck out.

        `path` is written by rank 0, one line an example: step and file. `max_bad_share` is a share of `num_examples`.
        """
        self.num_examples, self._max_bad_share, self._path = num_examples, max_bad_share, path
        self._met: dict[str, int] = {}
        if path.exists():
            lines = (line.split("\t", 1) for line in path.read_text(encoding="utf-8").splitlines())
            self._met = {reason: int(step) for step, reason in lines if int(step) <= started}
        self._new: dict[str, int] = {}

    def take(self, step: int, batch: Batch) -> Batch:
        """Notes the replaced examples of a batch of this rank, says so at first sight, and returns the batch."""
        for reason in batch.replaced:
            if reason not in self._met and reason not in self._new:
                self._new[reason] = step
                print(f"{reason}; the next example that can be read takes its place", file=sys.stderr, flush=True)
        return batch

    def count(self) -> int:
        """Examples that the run has met so far, on all ranks; collective. Rank 0 then writes the list.

        Raises:
            TooManyBadExamples: they are more than the run allows; on all ranks.
        """
        everywhere: list[dict[str, int]] = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(everywhere, self._new)
        self._new = {}
        found = sorted((step, reason) for new in everywhere for reason, step in new.items())
        for step, reason in found:
            self._met.setdefault(reason, step)
        if found and dist.get_rank() == 0:
            with replacing(self._path) as temporary:
                lines = (f"{step}\t{reason}\n" for reason, step in self._met.items())
                temporary.write_text("".join(lines), encoding="utf-8")
        check_bad_share(list(self._met), self.num_examples, self._max_bad_share)
        return len(self._met)
