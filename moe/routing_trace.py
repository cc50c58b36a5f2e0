"""The routing trace: the experts of each token in every MoE layer, and the rank of the token.

Shape legend: T tokens, L MoE layers, K choices per token and layer.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from netsim.foundation.arrays import UNREADABLE, quietly, read_archive
from netsim.foundation.complaint import first_complaint
from netsim.foundation.documents import parse_json
from netsim.foundation.files import replacing
from netsim.foundation.refusal import Refusal

DROPPED = -1
_PER_TOKEN = ("step", "micro", "sequence", "position")
_Positive = Annotated[int, Field(gt=0, strict=True)]


class RoutingHeader(BaseModel):
    """The header of a routing trace: sizes and names.

    Attributes:
        format: Name and version of the file format.
        num_experts: Logical experts per layer.
        num_layers: MoE layers L.
        top_k: Choices K per token and layer.
        world_size: Ranks that recorded the trace.
        model: Free name of the model.
        hidden: Width of a token, for replay.
        element_bytes: Bytes of one element of a token, for replay.
        key_value_width: Elements of a token's keys and values together, for replay in coherent dispatch.
        target_bytes: Bytes of a target that ranks exchange in coherent dispatch, 1 or 4; None: 1.
        moe_layers: Block index of each MoE layer, for replay and for maps of all hidden layers.
        expert_parallel: Ranks of one expert-parallel group while recording.
        dispatch: Dispatch mode of the run that recorded the trace; None if it is unknown.
        cap: Most that an expert takes of a rank's choices, as a multiple of its even share, for replay in capped
            dispatch; None: the router has no limit, or it is unknown.
        due_choices: Experts that a token visits on average, of which `cap` is a multiple.
        expert_parameters: Parameters of an expert, for replay with replicas.
        replicas: How the run chose among the replicas of an expert, had there been any; None if it is unknown.
        config_sha256: Hash of the run's configuration, the same as in its collective trace; None if it is unknown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["flowfabric.routing/1"] = "flowfabric.routing/1"
    num_experts: _Positive
    num_layers: _Positive
    top_k: _Positive
    world_size: _Positive
    model: str
    hidden: _Positive | None = None
    element_bytes: _Positive | None = None
    key_value_width: _Positive | None = None
    target_bytes: Literal[1, 4] | None = None
    moe_layers: tuple[Annotated[int, Field(ge=0, strict=True)], ...] | None = None
    expert_parallel: _Positive | None = None
    dispatch: Literal["coherent", "home", "copies", "hierarchical", "capped"] | None = None
    cap: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    due_choices: _Positive | None = None
    expert_parameters: _Positive | None = None
    replicas: Literal["even", "least_loaded"] | None = None
    config_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None

    @property
    def dense_layers(self) -> tuple[int, ...] | None:
        """Hidden layers without experts before the last that has some; None if the trace does not name its layers."""
        if self.moe_layers is None:
            return None
        return tuple(sorted({*range(max(self.moe_layers) + 1)} - {*self.moe_layers}))


@dataclass(frozen=True, eq=False)
class RoutingTrace:
    """Routing decisions of T tokens; the path of a token through the layers follows its anchors.

    Attributes:
        expert_ids: Logical expert ids, int [T, L, K], best choice first; -1 is a dropped choice.
        source_rank: World rank that holds each token, int [T].
        header: Sizes and names.
        weights: Gate weights, float [T, L, K].
        step: Optimiser step of each token, int [T].
        micro: Micro-batch of each token, int [T].
        sequence: Sequence of each token, int [T].
        position: Position of each token in its sequence, int [T].
    """

    expert_ids: NDArray[np.integer]
    source_rank: NDArray[np.integer]
    header: RoutingHeader
    weights: NDArray[np.floating] | None = None
    step: NDArray[np.integer] | None = None
    micro: NDArray[np.integer] | None = None
    sequence: NDArray[np.integer] | None = None
    position: NDArray[np.integer] | None = None

    def __post_init__(self) -> None:
        header, ids = self.header, self.expert_ids
        expected = (header.num_layers, header.top_k)
        _require_integers("expert_ids", ids)
        if ids.ndim != 3 or ids.shape[1:] != expected:
            raise ValueError(f"expert_ids: shape {ids.shape} is not [tokens, {expected[0]}, {expected[1]}]")
        tokens = len(ids)
        if not tokens:
            raise ValueError("expert_ids: contains no tokens (0)")
        _require_range("expert_ids", ids, DROPPED, header.num_experts, "num_experts")
        for name in ("source_rank", *_PER_TOKEN):
            array = getattr(self, name)
            if array is None:
                continue
            _require_integers(name, array)
            if array.shape != (tokens,):
                raise ValueError(f"{name}: shape {array.shape} is not [{tokens}], one entry a token")
        _require_range("source_rank", self.source_rank, 0, header.world_size, "world_size")
        for name in ("expert_ids", "source_rank"):
            if getattr(self, name).dtype not in (np.int32, np.int64):  # ids are negated and multiplied
                object.__setattr__(self, name, getattr(self, name).astype(np.int64))
        if self.weights is not None:
            if not np.issubdtype(self.weights.dtype, np.floating) or self.weights.shape != ids.shape:
                raise ValueError(f"weights: {self.weights.dtype} {self.weights.shape} is not floats of {ids.shape}")
            if not np.isfinite(self.weights).all():
                raise ValueError(f"weights: {int((~np.isfinite(self.weights)).sum())} entries are NaN or infinite")
        if header.moe_layers is not None and len(header.moe_layers) != header.num_layers:
            raise ValueError(f"header.moe_layers: names {len(header.moe_layers)} of {header.num_layers} layers")

    @property
    def num_tokens(self) -> int:
        """Number of tokens T."""
        return len(self.expert_ids)

    def anchors(self) -> NDArray[np.integer]:
        """First kept choice of each token and layer, int [T, L]; -1 where every choice was dropped."""
        kept = self.expert_ids != DROPPED
        first = kept.argmax(axis=2, keepdims=True)
        return np.take_along_axis(self.expert_ids, first, axis=2)[:, :, 0]

    @classmethod
    def concatenate(cls, traces: Sequence[Self]) -> Self:
        """Join the tokens of several traces of one model; ValueError if header or optional arrays differ."""
        if not traces:
            raise ValueError("traces: none were given; pass at least one")
        first = traces[0]
        names = [name for name in ARRAYS if getattr(first, name) is not None]
        for trace in traces[1:]:
            if trace.header != first.header:
                raise ValueError("header: the traces have different headers; join traces of one run only")
            if names != [name for name in ARRAYS if getattr(trace, name) is not None]:
                raise ValueError("traces: some lack arrays that others have; record all ranks with the same settings")
        return replace(first, **{name: np.concatenate([getattr(trace, name) for trace in traces]) for name in names})

    def write(self, path: Path | str) -> None:
        """Write the trace; equal traces become equal bytes (stored members, no time stamps)."""
        arrays = {name: getattr(self, name) for name in ARRAYS if getattr(self, name) is not None}
        header = self.header.model_dump(mode="json", exclude_none=True)
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, header=np.array(json.dumps(header)), **arrays)

    @classmethod
    def read(cls, path: Path | str, num_experts: int | None = None) -> Self:
        """Read a trace of this project (`.npz`) or of ExFlow (`.npy`, [tokens, layers] or [tokens, layers, k]).

        Args:
            num_experts: Experts per layer; required for `.npy`, which does not contain it, refused for `.npz`.

        Returns:
            The trace. ExFlow's files do not say where a token came from: all sit on rank 0 of a world of 1.

        Raises:
            Refusal: The file cannot be read or its content contradicts itself.
        """
        path = Path(path)
        if path.suffix == ".npy":
            return cls._read_exflow(path, num_experts)
        if num_experts is not None:
            raise Refusal(path, "num_experts", f"is given ({num_experts}) but is in the .npz file", "leave it out")
        single = "name it .npy and give --num-experts"
        arrays = read_archive(path, ("header", *ARRAYS[:2]), ARRAYS[2:], remedy="record the trace again", single=single)
        header = _parse_header(path, arrays.pop("header"))
        try:
            return cls(header=header, **arrays)
        except ValueError as error:
            raise _blame(path, error) from error

    @classmethod
    def _read_exflow(cls, path: Path, num_experts: int | None) -> Self:
        remedy = "save it with numpy.save as integers [tokens, layers] or [tokens, layers, k]"
        if num_experts is None:
            raise Refusal(path, "num_experts", "is not in a .npy trace", "give --num-experts")
        try:
            with path.open("rb") as stream, quietly():
                ids = np.load(stream, allow_pickle=False)
        except OSError as error:
            raise Refusal(path, "file", f"cannot be read ({error.strerror or error})", "check the path") from error
        except UNREADABLE as error:
            raise Refusal(path, "file", "is not a plain array (pickled, ragged or truncated)", remedy) from error
        if not isinstance(ids, np.ndarray):
            raise Refusal(path, "file", "holds several arrays", remedy)
        ids = ids[:, :, None] if ids.ndim == 2 else ids
        if ids.ndim != 3 or 0 in ids.shape:
            raise Refusal(path, "expert_ids", f"has shape {ids.shape}", remedy)
        try:
            header = RoutingHeader(
                num_experts=num_experts, num_layers=ids.shape[1], top_k=ids.shape[2], world_size=1, model=path.stem
            )
            return cls(expert_ids=ids, source_rank=np.zeros(len(ids), np.int64), header=header)
        except ValidationError as error:
            complaint = first_complaint(error)
            raise Refusal(path, complaint.field, complaint.problem, "give a positive --num-experts") from error
        except ValueError as error:
            raise _blame(path, error) from error


ARRAYS = ("expert_ids", "source_rank", "weights", *_PER_TOKEN)
"""Names of the arrays that a trace may have, in the order of its file."""


def _require_integers(name: str, array: NDArray) -> None:
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name}: holds {array.dtype}, not integers")


def _require_range(name: str, array: NDArray, low: int, high: int, limit: str) -> None:
    outside = (array < low) | (array >= high)
    if outside.any():
        value = int(array[outside].flat[0])
        raise ValueError(f"{name}: {int(outside.sum())} entries lie outside [{low}, {limit} {high}) (first {value})")


def _blame(path: Path, error: ValueError) -> Refusal:
    field, _, problem = str(error).partition(": ")
    return Refusal(path, field, problem, "record the trace again, or correct the array and its header")


def _parse_header(path: Path, header: NDArray) -> RoutingHeader:
    if header.shape or header.dtype.kind != "U":
        raise Refusal(path, "header", f"is {header.dtype} {header.shape}, not a string", "store JSON as a 0-d string")
    try:
        document = parse_json(str(header))
    except ValueError as error:
        raise Refusal(path, "header", f"is not JSON ({error})", "store the header as JSON") from error
    if isinstance(document, dict) and "format" not in document:
        raise Refusal(path, "header.format", "is missing", "state flowfabric.routing/1")
    try:
        return RoutingHeader.model_validate(document)
    except ValidationError as error:
        complaint = first_complaint(error)
        remedy = complaint.remedy or "write the header as flowfabric.routing/1 has it"
        raise Refusal(path, f"header.{complaint.field}", complaint.problem, remedy) from error
