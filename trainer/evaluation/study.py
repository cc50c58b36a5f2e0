"""A study of a finished run: work on pictures, shared over the ranks; the same command resumes an unfinished folder."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist
from rich.table import Table
from torch import Tensor

from netsim.foundation.files import write_json, write_text
from netsim.foundation.terminal import Terminal
from trainer.checkpoint.manifest import Manifest
from trainer.config.run import RunConfig
from trainer.distributed.groups import Launch
from trainer.flow.sampler import AnyConfig
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import build_space, check_latents
from trainer.sampling.requested_pictures import FolderPictures, HeldOutPictures, Pictures, open_pictures
from trainer.sampling.results_folder import ResultsFolder, work_through
from trainer.sampling.trained import SharedFlow, shared

PAGE, RESULTS = "index.html", "results.json"
WIDTH = 100
"""Width, in characters, of tables that are printed into a file."""


@dataclass(frozen=True)
class Work:
    """Work on batches of pictures, which is a function of the pictures alone.

    Attributes:
        batch: computes the results of a batch of rows, int64 [B], and returns a function that writes them.
        files: documents that the folder begins with, by name.
    """

    batch: Callable[[Tensor], Callable[[], None]]
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Findings:
    """Figures of a finished folder: as JSON, as a page, and as a function that prints them."""

    document: Mapping[str, Any]
    page: str
    show: Callable[[], None]


@dataclass(kw_only=True)
class Study(ABC):
    """A request that is resolved against a run.

    Attributes:
        run_dir: folder of the run.
        checkpoint: folder of the checkpoint that the request was resolved against.
        sampler: sampler that draws from the flow.
        results: folder of the results, one file for each picture.
        together: number of pictures that pass through the network at once.
        title: of the progress, for a person.
    """

    run_dir: Path
    checkpoint: Path
    sampler: AnyConfig
    pictures: Pictures
    results: ResultsFolder
    together: int
    title: str

    @abstractmethod
    def work(self, ranks: SharedFlow) -> Work:
        """Prepares the work; collective. Raises the same ValueError on every rank if the flow does not allow it."""

    @abstractmethod
    def findings(self, flow: TrainedFlow) -> Findings:
        """Measures the results of all pictures; on the first rank."""


def weights_of(checkpoint: Path) -> str:
    """Digest of the averaged weights, which results are a function of; the folder of the run may move."""
    return Manifest.read(checkpoint).weights_sha256()


def opened_pictures(
    section: HeldOutPictures | FolderPictures, config: RunConfig, field: str, shape: tuple[int, ...] | None = None
) -> Pictures:
    """The pictures of a request, some of which can be read; a refusal names the field."""
    check_latents(config)
    device = Launch.from_environment().device
    pictures = open_pictures(section, config, build_space(config), device=device, shape=shape)
    pictures.check_some_readable(field)
    return pictures


def carry_out(study: Study) -> int:
    """Completes a folder of results, and writes its figures and its page; 75 if stopped.

    The ranks of a launch share the pictures, and share the network as the run's ranks did. Earlier results of the same
    request are kept.
    """
    results, refusal, findings, code = study.results, None, None, 0
    results.check()
    with shared(study.run_dir, study.sampler) as ranks:
        first = ranks.launch.rank == 0
        try:
            if ranks.flow.checkpoint != study.checkpoint.name:
                raise ValueError(f"run_dir: {study.run_dir} has saved {ranks.flow.checkpoint} meanwhile; start again")
            work = study.work(ranks)
        except ValueError as error:  # the same on every rank, which leave the process groups before it is raised
            refusal = error
        else:
            if first:
                results.begin()
                for name, document in work.files.items():
                    write_json(results.path / name, document, ensure_ascii=False)
            dist.barrier()
            code = work_through(
                study.pictures,
                results,
                work.batch,
                together=study.together,
                model=ranks.flow.model,
                launch=ranks.launch,
                title=study.title,
            )
            if code == 0 and first:
                findings = study.findings(ranks.flow)
                write_text(results.path / PAGE, findings.page)
                write_json(results.path / RESULTS, findings.document, ensure_ascii=False)
    if refusal is not None:
        raise refusal
    if findings is not None:
        findings.show()
    return code


def print_table(table: Table) -> None:
    """Prints a table as wide as the terminal, or as `WIDTH` into a file."""
    Terminal(width=None if sys.stdout.isatty() else WIDTH).print(table)
