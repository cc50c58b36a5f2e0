"""The compiled core; what its functions do stands where they are called. Tuples are those of the engines' layouts."""

from typing import Any

from numpy import ndarray

_Parts = tuple[Any, ...]

controls: tuple[str, ...]
"""The congestion controls, by number."""

# The event and the windowed engine.
def run_events(arrays: _Parts, in_flight: _Parts, resumed: int) -> int: ...
def run_windows(arrays: _Parts, of_shares: _Parts, of_wheels: _Parts, thread: int, resumed: int) -> int: ...

# The exact engine, and what others take from it.
def service_ps(size_bytes: int, rate_bps: int) -> int: ...
def release_times(
    delay_ps: ndarray,
    size_bytes: ndarray,
    after_begin: ndarray,
    after: ndarray,
    end_ps: ndarray,
    release_ps: ndarray,
) -> None: ...
def list_successors(after_begin: ndarray, after: ndarray, begin: ndarray, waiting: ndarray) -> None: ...
def draw_all(seed: int, purpose: int, flow: ndarray, sequence: ndarray, drawn: ndarray) -> None: ...
def crc32_hashes(seed: int, src: ndarray, dst: ndarray, hashes: ndarray) -> None: ...
def sort_pairs(key: ndarray, index: ndarray) -> None: ...
def sort_members(groups: _Parts, turn: ndarray) -> None: ...
def shuffle_routes(groups: _Parts, drawn_by: ndarray, seed: int, purpose: int) -> None: ...
def turn_routes(
    groups: _Parts, base: ndarray, steps: ndarray, stride: int, links: int, leaf: ndarray, place: ndarray
) -> None: ...
def cut(
    groups: _Parts,
    message_bytes: ndarray,
    equally: bool,
    begin: ndarray,
    size_bytes: ndarray,
    route: ndarray,
    pieces: ndarray,
) -> None: ...
def sort_rings(
    link: ndarray, turn: ndarray, join_ps: ndarray, delay_ps: ndarray, begin: ndarray, order: ndarray
) -> None: ...
def inject(
    fabric: _Parts,
    rule: tuple[int, int, int, int],
    rings: _Parts,
    cargo: _Parts,
    leaf: ndarray,
    bits: int,
    stride: int,
    departures: _Parts,
) -> None: ...
def serve(
    fabric: _Parts,
    links: ndarray,
    here: _Parts,
    there: _Parts,
    packets: _Parts,
    receivers: ndarray,
    figures: ndarray,
    longest: _Parts,
) -> None: ...
def remaining_ps(
    fabric: _Parts,
    rate_bps: ndarray,
    packets: _Parts,
    receivers: ndarray,
    link: ndarray,
    tag: ndarray,
    rest_ps: ndarray,
) -> None: ...
def note_queues(longest: _Parts, time_ps: ndarray, queue_ps: ndarray) -> None: ...

# Fast-forward.
def start_program(progress: _Parts) -> None: ...
def run_program(progress: _Parts, units: _Parts, kinds: _Parts) -> int: ...
def place_unit(
    progress: _Parts, units: _Parts, links: ndarray, unit: int, binding: int, begin_ps: int, tasks: ndarray
) -> bool: ...
def remember_joint(progress: _Parts, met: int, meets: int, after_ps: int, joint: int) -> None: ...
def gather_wave(progress: _Parts, ends: _Parts, found: ndarray, found_ps: ndarray) -> int: ...
def follow_units(
    fabric: _Parts,
    arrivals: _Parts,
    packets: _Parts,
    unit_of_flow: ndarray,
    release_ps: ndarray,
    width_ps: int,
    passages: _Parts,
) -> tuple[int, int, bool]: ...
def thin_queues(time_ps: ndarray, queue_ps: ndarray, begin: ndarray, kept: ndarray, width_ps: int) -> None: ...
def count_flows(units: _Parts, whole: _Parts, flows_of_next: ndarray) -> None: ...
def fill_figures(
    units: _Parts,
    bound_links: ndarray,
    whole: _Parts,
    first_flow: ndarray,
    src: ndarray,
    dst: ndarray,
    stride: int,
    figures: _Parts,
    longest: _Parts,
) -> None: ...

# The flow level and the lower bound.
def run_streams(arrays: _Parts, streams: _Parts) -> int: ...
def fill_rates(
    active: ndarray, rising: ndarray, segments: ndarray, rate: ndarray, fabric: _Parts, capacity: ndarray
) -> None: ...
def change_rates(flows: _Parts, changed: ndarray, before: ndarray, now_ps: int) -> None: ...
def violations(
    active: ndarray, segments: ndarray, rate: ndarray, fabric: _Parts, capacity: ndarray
) -> tuple[int, int]: ...
def latencies(bytes: ndarray, segments: ndarray, fabric: _Parts, routes: _Parts, latency_ps: ndarray) -> None: ...
def bound(
    columns: _Parts, ends: _Parts, fabric: _Parts, wire: _Parts, crossing: ndarray, sent_from: ndarray
) -> int: ...

# Parts that tests compare with independent ones.
def play_heap(calendar: ndarray, moves: ndarray, taken: ndarray) -> None: ...
def sort_arrivals(arrivals: ndarray, scratch: ndarray, places: ndarray, begin: int, end: int, end_ps: int) -> None: ...
def add_end(streams: _Parts, index: int) -> None: ...
def bring_forward(streams: _Parts, index: int) -> None: ...
def first_end(streams: _Parts) -> float: ...
def take_first_end(streams: _Parts) -> int: ...
