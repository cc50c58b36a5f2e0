"""What `moe place` chooses where nothing is given: the dispatch mode of the objective, and the cap on the load."""

import re
from collections.abc import Sequence
from typing import get_args

from moe.placement.cost.evaluation import Evaluation, exchange_seconds, expert_seconds
from moe.placement.placement import Dispatch
from moe.placement.topology import Topology
from moe.report.context import Volume
from moe.routing_trace import RoutingTrace

USUAL_CAP = 1.1
_FLOPS = re.compile(r"([\d.]+)([GTP])FLOPs?")
_PREFIXES = {"G": 1e9, "T": 1e12, "P": 1e15}
_PASSES = 2  # every exchange is repeated by the gradient


def choose_objective(given: str, trace: RoutingTrace, num_ranks: int) -> tuple[Dispatch, str]:
    """Name the dispatch mode whose traffic is minimised.

    Args:
        given: What the command line says: auto, or a mode.
        trace: The routing trace.
        num_ranks: Ranks of one expert-parallel group.

    Returns:
        The mode, and why it was chosen; nothing if it was given.

    Raises:
        ValueError: There is no such mode.
    """
    modes: tuple[Dispatch, ...] = get_args(Dispatch)
    if given != "auto":
        for mode in modes:
            if mode == given:
                return mode, ""
        raise ValueError(f"objective: unknown ({given}); choose from auto, {', '.join(modes)}")
    header = trace.header
    if header.dispatch == "capped":
        return "home", "the run used capped dispatch, which sends the same under any placement"
    if header.dispatch is not None:
        return header.dispatch, "the dispatch mode of the run that recorded the trace"
    if header.world_size % num_ranks:
        return "coherent", "the trace names no dispatch mode and no ranks of its tokens, which the other modes need"
    if header.top_k == 1:
        return "home", "the trace names no dispatch mode; with one choice a token this is what ordinary dispatch sends"
    return "copies", "the trace names no dispatch mode; with several choices most systems send one copy a rank"


def parse_cap(text: str) -> float | None:
    """Read a cap from the command line.

    Args:
        text: A number, or none.

    Returns:
        The cap, or None for no cap.

    Raises:
        ValueError: The text is neither.
    """
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"max_load: is not a number ({text}); give a multiple of the mean such as 1.1, auto or none"
        ) from None


def parse_flops(text: str) -> float:
    """Read a rate of computation from the command line.

    Args:
        text: Such as 200TFLOPs.

    Returns:
        Floating-point operations in a second.

    Raises:
        ValueError: The text is no such rate, or it is 0.
    """
    match = _FLOPS.fullmatch(text)
    try:
        rate = float(match[1]) * _PREFIXES[match[2]] if match else 0.0
    except ValueError:
        rate = 0.0
    if not rate:
        raise ValueError(f"compute: is not a rate above 0 ({text}); give one such as 200TFLOPs")
    return rate


def quickest_cap(
    placements: Sequence[tuple[float | None, Evaluation]],
    topology: Topology,
    volume: Volume,
    expert_parameters: int,
    flops: float,
) -> float | None:
    """Choose the cap whose placement ends a micro batch first: exchanges of tokens, and the busiest rank's experts.

    Args:
        placements: Caps, each with the traffic of its placement.
        topology: Ranks, with the rates of their links.
        volume: Bytes of a token and tokens of a step; all tokens of the trace are one micro batch if steps are unknown.
        expert_parameters: Parameters of one expert.
        flops: Floating-point operations of a rank in a second.

    Returns:
        The cap.
    """
    assert volume.token_bytes is not None
    token_bytes = volume.token_bytes

    def seconds(placed: tuple[float | None, Evaluation]) -> float:
        traffic = placed[1]
        tokens = volume.tokens_per_step / volume.micro_batches if volume.tokens_per_step else traffic.num_tokens
        share = tokens / traffic.num_tokens
        sent = traffic.moves * share * token_bytes
        computed = expert_seconds(traffic.rank_loads * share, expert_parameters, flops)
        return float(_PASSES * exchange_seconds(sent, topology).sum() + computed.sum())

    return min(placements, key=seconds)[0]
