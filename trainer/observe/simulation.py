"""Reading what the network simulator found; the two packages share the file, not code."""

import json
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moe.files import FileError, first_complaint

_Finite = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
_Count = Annotated[int, Field(ge=0, strict=True)]


class SimulatedRun(BaseModel):
    """One transport with one seed.

    Attributes:
        transport: name of the transport.
        seed: seed of its draws.
        engine: what simulated it; fluid is flow level, the others move packets.
        completion_ns: when the last message had arrived, ns.
        bound_ns: what no packet-level run can be faster than, ns.
        packet_hops: packets times links crossed.
        max_queue_bytes: longest queue of any link.
        reordered_packets: packets that overtook an earlier one of their flow.
    """

    model_config = ConfigDict(frozen=True)

    transport: str
    seed: _Count
    engine: str
    completion_ns: _Finite
    bound_ns: _Finite
    packet_hops: _Count
    max_queue_bytes: _Count
    reordered_packets: _Count


class Simulation(BaseModel):
    """A results.json with the pictures beside it."""

    model_config = ConfigDict(frozen=True)

    format: Literal["flowfabric.results/1"]
    scenario: dict[str, Any]
    runs: Annotated[tuple[SimulatedRun, ...], Field(min_length=1)]

    @classmethod
    def read(cls, folder: Path) -> "Simulation":
        """Reads the folder that ``python -m netsim compare --out`` wrote.

        Args:
            folder: holds results.json.

        Returns:
            The runs.

        Raises:
            FileError: the file is missing or malformed.
        """
        path, remedy = folder / "results.json", "write it with `python -m netsim compare SCENARIO --out FOLDER`"
        try:
            document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
        except OSError as error:
            raise FileError(path, "file", f"cannot be read ({error.strerror})", remedy) from error
        except ValueError as error:
            raise FileError(path, "document", f"is not JSON ({error})", remedy) from error
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise FileError(path, *first_complaint(error), remedy) from error

    def by_transport(self) -> dict[str, list[SimulatedRun]]:
        """The runs of each transport, in the order of the file."""
        runs: dict[str, list[SimulatedRun]] = defaultdict(list)
        for run in self.runs:
            runs[run.transport].append(run)
        return dict(runs)

    def mean_completion_ns(self, transport: str) -> float:
        """Mean completion over the seeds of a transport, ns."""
        return fmean(run.completion_ns for run in self.by_transport()[transport])


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
