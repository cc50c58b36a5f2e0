"""Files of other tools: read, checked, and made a trace or a placement of this project.

Shape legend: T tokens, L layers, K choices per token and layer.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from moe.placement.placement import Placement
from moe.routing_trace import DROPPED, RoutingHeader, RoutingTrace
from netsim.foundation.arrays import UNREADABLE, quietly
from netsim.foundation.complaint import first_complaint
from netsim.foundation.documents import parse_json
from netsim.foundation.refusal import Refusal

MOST_EXPERTS = 2**16
"""Most experts of one layer if a user does not give their number; a larger id is damage."""


def read_document(path: Path, remedy: str) -> Any:
    """Read a file by its name: `.pt` as `torch.save` wrote it, without code, any other as JSON."""
    try:
        if path.suffix == ".pt":
            return _read_pt(path, remedy)
        return parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refusal(path, "file", f"cannot be read ({error.strerror or error})", "check the path") from error
    except Refusal:
        raise
    except ValueError as error:
        raise Refusal(path, "document", f"is not JSON ({error})", remedy) from error


def whole_numbers(path: Path, field: str, value: Any, shape: tuple[str, ...], remedy: str) -> NDArray[np.int64]:
    """Take a rectangle of whole numbers, int64 with at least one entry, out of nested lists or a tensor, or refuse it.

    `shape` says what each axis counts; the first may be `...` for any number of axes.
    """
    wanted = f"whole numbers [{', '.join(shape)}]"
    try:
        array = value.numpy() if hasattr(value, "numpy") else np.array(value)
    except (*UNREADABLE, RecursionError) as error:
        raise Refusal(path, field, f"is not a rectangle of {wanted} ({_shown(value)})", remedy) from error
    fits = array.ndim >= len(shape) - 1 if shape[0] == "..." else array.ndim == len(shape)
    if not fits or not array.size or array.dtype.kind not in "iu" or array.dtype == np.uint64:
        raise Refusal(path, field, f"is not a rectangle of {wanted} ({_shown(value)})", remedy)
    return array.astype(np.int64)


def section(path: Path, field: str, value: Any, remedy: str) -> Mapping[str, Any]:
    """Take a mapping out of a document or refuse it."""
    if not isinstance(value, Mapping):
        raise Refusal(path, field, f"is not a mapping of names to values ({_shown(value)})", remedy)
    return value


def _read_pt(path: Path, remedy: str) -> Any:
    import torch

    with path.open("rb") as stream, quietly():
        try:
            return torch.load(stream, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever the damage leads to
            problem = f"is not a complete file of tensors and plain values ({type(error).__name__})"
            raise Refusal(path, "document", problem, remedy) from error


def _shown(value: Any) -> str:
    """Returns the start of a value as one line of text; a long list is not converted as a whole."""
    if not isinstance(value, list | str | int | float | None):
        return type(value).__name__
    start = value[:4] if isinstance(value, list | str) else value
    return " ".join(str(start).split())[:60]


class Imported(NamedTuple):
    """A file of another tool as a trace or a placement, with remarks that the user must know, a few words each."""

    result: RoutingTrace | Placement
    remarks: tuple[str, ...] = ()

    def summary(self) -> str:
        """Its sizes and the remarks, in one line."""
        result = self.result
        if isinstance(result, Placement):
            sizes = f"{result.num_layers} layers, {result.slots_per_rank} experts a rank"
        else:
            header = result.header
            sizes = (
                f"{result.num_tokens} tokens, {header.num_layers} layers, {header.num_experts} experts, "
                f"{header.top_k} choices a token, {header.world_size} ranks"
            )
        return "; ".join((sizes, *self.remarks))


def import_trace(
    path: Path,
    expert_ids: NDArray[np.integer],
    source_rank: NDArray[np.integer],
    *,
    world_size: int,
    num_experts: int | None = None,
    moe_layers: Sequence[int] | None = None,
    remarks: Sequence[str] = (),
    remedy: str,
    **arrays: NDArray | None,
) -> Imported:
    """Make a routing trace of arrays that another tool's file holds; a remark says if choices are not ordered.

    Args:
        path: The file, named in errors, whose name the trace takes.
        expert_ids: Logical expert ids, int [T, L, K]; -1 is a dropped choice.
        source_rank: Rank of each token, int [T].
        world_size: Ranks in all.
        num_experts: Experts per layer; None: as many as the largest id needs, which a remark says.
        moe_layers: Block index of each layer, or None.
        remarks: Further remarks for the user.
        remedy: Advice to the user about a malformed file.
        **arrays: Optional arrays of a routing trace by name.
    """
    notices = list(remarks)
    if num_experts is None:
        largest = int(expert_ids.max(initial=DROPPED))
        if not 0 <= largest < MOST_EXPERTS:
            raise Refusal(path, "expert ids", f"the largest is {largest}, which is not an expert of a layer", remedy)
        num_experts = largest + 1
        notices.append(f"the number of experts is that of the largest id ({largest}), --num-experts sets another")
    if expert_ids.shape[2] > 1 and (np.diff(expert_ids, axis=2) >= 0).all():
        notices.append(
            "choices are listed in the order of ids, so that the strongest is unknown: not usable for coherent dispatch"
        )
    try:
        header = RoutingHeader(
            num_experts=num_experts,
            num_layers=expert_ids.shape[1],
            top_k=expert_ids.shape[2],
            world_size=world_size,
            model=path.stem,
            moe_layers=None if moe_layers is None else tuple(moe_layers),
        )
        trace = RoutingTrace(expert_ids, source_rank, header, **arrays)  # pyright: ignore[reportArgumentType]
    except ValidationError as error:
        complaint = first_complaint(error)
        raise Refusal(path, complaint.field, complaint.problem, complaint.remedy or remedy) from error
    except ValueError as error:
        field, _, problem = str(error).partition(": ")
        raise Refusal(path, field, problem, remedy) from error
    return Imported(trace, tuple(notices))


def deal(sequence: NDArray[np.integer], ranks: int) -> NDArray[np.int32]:
    """Returns the source rank of each token, int32 [T], for files without ranks: sequences [T] are dealt in turn."""
    if ranks < 1:
        raise ValueError(f"ranks: must be at least 1 ({ranks}); give the ranks that sequences are dealt to")
    return (sequence % ranks).astype(np.int32)


_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")


def parse_layers(text: str) -> tuple[int, ...]:
    """Read numbers from 0 on and ranges with both ends, such as `0-2,5`, in ascending order."""
    layers: set[int] = set()
    for part in text.split(","):
        matched = _RANGE.fullmatch(part.strip())
        if matched is None:
            raise ValueError(f"dense_layers: is not a list of layers ({text[:40]}); write it as 0 or 0-2,5")
        first, last = int(matched[1]), int(matched[2] or matched[1])
        if last < first:
            raise ValueError(f"dense_layers: the range {part.strip()} runs backwards; write the smaller number first")
        layers.update(range(first, last + 1))
    return tuple(sorted(layers))


def read_texts(path: Path) -> list[str]:
    """Read the texts of a UTF-8 file, by its name: `.jsonl` as JSON lines with a field `text`, any other line by line.

    Blank lines are skipped. Refuses a file without texts.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise Refusal(path, "file", f"cannot be read ({error.strerror or error})", "check the path") from error
    except UnicodeDecodeError as error:
        raise Refusal(path, "file", f"is not UTF-8 text ({error.reason})", "convert it to UTF-8") from error
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if path.suffix == ".jsonl":
        numbered = [(number, _text_of(path, number, line)) for number, line in numbered]
    texts = [text for _, text in numbered if text.strip()]
    if not texts:
        raise Refusal(path, "file", "contains no texts", "write one text a line")
    return texts


def _text_of(path: Path, number: int, line: str) -> str:
    remedy = 'write lines such as {"text": "..."}'
    try:
        document = parse_json(line)
    except ValueError as error:
        raise Refusal(path, f"line {number}", f"is not JSON ({error})", remedy) from error
    text = document.get("text") if isinstance(document, dict) else None
    if not isinstance(text, str):
        raise Refusal(path, f"line {number}: text", f"is not text ({line[:40]})", remedy)
    return text
