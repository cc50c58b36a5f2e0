"""Reading surfaces of triangles from OFF, OBJ and PLY, and writing them with colours.

Shape suffixes: V vertices, F triangles.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from netsim.foundation.files import reading, write_bytes
from netsim.foundation.refusal import Refusal

N = TypeVar("N", int, float)
ENDINGS = (".off", ".obj", ".ply")
LIKE_OFF = "give triangles as OFF, OBJ or PLY"
LEAST_AREA = 1e-14
"""Least area of a triangle, relative to the square of the surface's longest edge."""

Polygons = Sequence[Sequence[int]] | NDArray[np.integer]
"""Vertices of each polygon, from 0."""


@dataclass(frozen=True, eq=False)
class Surface:
    """Triangles in space.

    Attributes:
        vertices: float64 [V, 3].
        triangles: int64 [F, 3] vertices of each.
        kept: int64 [V] the number of each vertex in the file that it is from.
        total: vertices of that file.
        parts: connected parts of the file, of which this is the one of most vertices.
    """

    vertices: NDArray[np.float64]
    triangles: NDArray[np.int64]
    kept: NDArray[np.int64]
    total: int
    parts: int = 1

    @property
    def edges(self) -> NDArray[np.int64]:
        """Each edge once, int64 [E, 2]."""
        return np.unique(np.sort(_sides(self.triangles), axis=1), axis=0)

    @property
    def closed(self) -> bool:
        """Whether each edge belongs to two triangles."""
        return 2 * len(self.edges) == 3 * len(self.triangles)


def read_surface(file: Path) -> Surface:
    """Reads a file and takes its largest connected part; a Refusal names what is wrong in it."""
    readers: dict[str, Callable[[Path, bytes], tuple[NDArray[np.float64], Polygons]]]
    readers = {".off": _off, ".obj": _obj, ".ply": _ply}
    read = readers.get(file.suffix.lower())
    if read is None:
        raise Refusal(file, "file", f"ends in {file.suffix or 'nothing'}, and no surface does", LIKE_OFF)
    with reading(file, "correct data.path"):
        content = file.read_bytes()
    vertices, polygons = read(file, content)
    if not len(polygons):
        raise Refusal(file, "triangles", "there are none", LIKE_OFF)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not np.isfinite(vertices).all():
        raise Refusal(file, "vertices", "have coordinates that are not finite", "correct them")
    return checked(file, vertices, _fans(file, polygons))


def checked(file: Path, vertices: NDArray[np.float64], triangles: NDArray[np.int64]) -> Surface:
    """The largest connected part of triangles that are sound; a Refusal names the first that is not."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    total = len(vertices)
    outside = np.flatnonzero(((triangles < 0) | (triangles >= total)).any(1))
    if len(outside):
        first = int(outside[0])
        problem = f"has the vertices {triangles[first].tolist()}, and the file has those from 0 to {total - 1}"
        raise Refusal(file, f"triangle {first}", problem, "correct its vertices")
    corners = vertices[triangles]
    with np.errstate(over="ignore", invalid="ignore"):
        doubled = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max()
        flat = np.flatnonzero(~(doubled > LEAST_AREA * longest**2))
    if not np.isfinite(longest) or not np.isfinite(doubled).all():
        raise Refusal(file, "vertices", "are too far apart for their areas to be numbers", "scale them down")
    if len(flat):
        first = int(flat[0])
        problem = f"has no area (vertices {triangles[first].tolist()}), and so have {len(flat) - 1} others"
        raise Refusal(file, f"triangle {first}", problem, "remove them, or merge their vertices")
    sides = np.sort(_sides(triangles), axis=1)
    edges, counts = np.unique(sides, axis=0, return_counts=True)
    if (counts > 2).any():
        crowded = edges[counts > 2][0].tolist()
        problem = f"{crowded} is of {counts.max()} triangles, and so is no surface"
        raise Refusal(file, "edge", problem, "keep two triangles of each edge")
    graph = coo_array((np.ones(len(edges)), edges.T), shape=(total, total))
    _, part_of = connected_components(graph, directed=False)
    used = np.zeros(total, np.bool_)
    used[triangles] = True
    parts, sizes = np.unique(part_of[used], return_counts=True)
    inside = used & (part_of == parts[sizes.argmax()])
    number = np.cumsum(inside) - 1
    own = inside[triangles[:, 0]]
    return Surface(vertices[inside], number[triangles[own]], np.flatnonzero(inside), total, len(parts))


def write_surface(file: Path, surface: Surface, colours: NDArray[np.uint8]) -> None:
    """Writes a surface as binary PLY with a colour [V, 3] for each vertex."""
    corner = np.dtype([("place", "<f4", 3), ("colour", "u1", 3)])
    vertices = np.empty(len(surface.vertices), corner)
    vertices["place"], vertices["colour"] = surface.vertices, colours
    faces = np.empty(len(surface.triangles), np.dtype([("count", "u1"), ("corners", "<i4", 3)]))
    faces["count"], faces["corners"] = 3, surface.triangles
    properties = [f"property float {axis}" for axis in "xyz"]
    properties += [f"property uchar {name}" for name in ("red", "green", "blue")]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}", *properties]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header", ""]
    write_bytes(file, "\n".join(header).encode() + vertices.tobytes() + faces.tobytes())


def _sides(triangles: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])


def _fans(file: Path, polygons: Polygons) -> NDArray[np.int64]:
    """Splits polygons into triangles, int64 [F, 3], that fan out from the first corner of each."""
    if isinstance(polygons, np.ndarray):
        return polygons.astype(np.int64)
    short = next((number for number, corners in enumerate(polygons) if len(corners) < 3), None)
    if short is not None:
        raise Refusal(file, f"polygon {short}", f"has {len(polygons[short])} corners", "give three or more")
    fans = [(one[0], one[at], one[at + 1]) for one in polygons for at in range(1, len(one) - 1)]
    try:
        return np.array(fans, np.int64)
    except OverflowError:
        raise Refusal(file, "triangles", "have vertices outside of 64 bits", "correct them") from None


def _text(file: Path, content: bytes) -> list[tuple[int, list[str]]]:
    """The words of each line that has some, without comments, by its number from 1."""
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise Refusal(file, "file", "is not UTF-8", LIKE_OFF) from None
    words = ((number, line.partition("#")[0].split()) for number, line in enumerate(lines, 1))
    return [(number, parts) for number, parts in words if parts]


def _numbers(file: Path, line: int, words: Iterable[str], kind: type[N]) -> list[N]:
    try:
        return [kind(word) for word in words]
    except ValueError:
        wanted = "whole numbers" if kind is int else "numbers"
        raise Refusal(file, f"line {line}", f"has something else than {wanted}", LIKE_OFF) from None


def _off(file: Path, content: bytes) -> tuple[NDArray[np.float64], Polygons]:
    lines = _text(file, content)
    if not lines or lines[0][1][0] not in ("OFF", "COFF"):
        raise Refusal(file, "file", "does not begin with OFF", LIKE_OFF)
    _, (_, *head) = lines[0]
    if not head:  # the counts may stand on the next line
        head, lines = (lines[1][1] if lines[1:] else []), lines[1:]
    lines = lines[1:]
    counts = _numbers(file, 2, head[:2], int)
    if len(counts) < 2 or min(counts) < 0 or sum(counts) > len(lines):
        announced = " and ".join(map(str, counts)) or "no"
        problem = f"announces {announced} vertices and faces, and {len(lines)} lines follow"
        raise Refusal(file, "line 2", problem, "bring the whole file back")
    vertices = [_coordinates(file, line, words) for line, words in lines[: counts[0]]]
    polygons = []
    for line, words in lines[counts[0] : sum(counts)]:
        corners = _numbers(file, line, words, float if "." in "".join(words) else int)
        count = int(corners[0])
        if not 0 < count < len(corners):
            raise Refusal(file, f"line {line}", f"announces {count} corners, and has {len(corners) - 1}", LIKE_OFF)
        polygons.append([int(one) for one in corners[1 : 1 + count]])
    return np.array(vertices, np.float64).reshape(-1, 3), polygons


def _obj(file: Path, content: bytes) -> tuple[NDArray[np.float64], Polygons]:
    vertices, polygons = [], []
    for line, (word, *words) in _text(file, content):
        if word == "v":
            vertices.append(_coordinates(file, line, words))
        elif word == "f":
            corners = _numbers(file, line, (one.partition("/")[0] for one in words), int)
            # A negative number counts back from the vertices so far.
            polygons.append([one - 1 if one > 0 else len(vertices) + one for one in corners])
    return np.array(vertices, np.float64).reshape(-1, 3), polygons


def _coordinates(file: Path, line: int, words: list[str]) -> list[float]:
    if len(words) < 3:
        raise Refusal(file, f"line {line}", f"has {len(words)} coordinates of a vertex", "give three")
    return _numbers(file, line, words[:3], float)


_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass(frozen=True)
class _Element:
    """An element of a PLY: number of rows, types of each property (one; for a list that of length and of entries)."""

    name: str
    count: int
    properties: dict[str, tuple[str, ...]]


def _ply(file: Path, content: bytes) -> tuple[NDArray[np.float64], Polygons]:
    head, mark, body = content.partition(b"end_header")
    lines = [line.split() for line in head.decode("ascii", "replace").splitlines()]
    if not mark or not lines or lines[0] != ["ply"]:
        raise Refusal(file, "file", "has no header of PLY", LIKE_OFF)
    body = body[2:] if body.startswith(b"\r\n") else body[1:]
    order, elements = _head(file, lines[1:])
    columns: dict[str, dict[str, Polygons]] = {}
    words, place = body.decode("ascii", "replace").split() if order == "" else [], 0
    for one in elements:
        if one.count > len(body):
            problem = f"announces {one.count} rows, and {len(body)} bytes follow"
            raise Refusal(file, f"element {one.name}", problem, "bring the whole file back")
        columns[one.name], place = _columns(file, one, words if order == "" else body, place, order)
    vertex, face = columns.get("vertex", {}), columns.get("face", {})
    if not all(isinstance(vertex.get(axis), np.ndarray) for axis in "xyz"):
        raise Refusal(file, "element vertex", "lacks x, y or z", LIKE_OFF)
    polygons = face.get("vertex_indices", face.get("vertex_index", []))
    if isinstance(polygons, np.ndarray) and polygons.ndim != 2:
        raise Refusal(file, "element face", "lists no vertices", LIKE_OFF)
    return np.stack([np.asarray(vertex[axis], np.float64) for axis in "xyz"], axis=1), polygons


def _head(file: Path, lines: list[list[str]]) -> tuple[str, list[_Element]]:
    """Returns the byte order, empty for text, and the elements in the order of the file."""
    order, elements = None, []
    for number, words in enumerate(lines, 2):
        match words:
            case ["format", name, _] if name in _ORDERS:
                order = _ORDERS[name]
            case ["element", name, count] if count.isdecimal():
                elements.append(_Element(name, int(count), {}))
            case ["property", "list", length, entry, name] if elements and length in _TYPES and entry in _TYPES:
                elements[-1].properties[name] = _TYPES[length], _TYPES[entry]
            case ["property", kind, name] if elements and kind in _TYPES:
                elements[-1].properties[name] = (_TYPES[kind],)
            case [] | ["comment", *_] | ["obj_info", *_]:
                pass
            case _:
                raise Refusal(file, f"line {number}", f"is no line of a header ({' '.join(words):.40})", LIKE_OFF)
    if order is None:
        raise Refusal(file, "format", "is missing", LIKE_OFF)
    return order, elements


def _columns(
    file: Path, element: _Element, source: bytes | list[str], place: int, order: str
) -> tuple[dict[str, Polygons], int]:
    """Returns the values of each property of an element, lists as [rows, length], and the next byte or word's place."""
    lists = [name for name, types in element.properties.items() if len(types) == 2]
    if isinstance(source, bytes):
        fields: list[tuple[str, str] | tuple[str, str, int]] = []
        for name, types in element.properties.items():
            if name in lists:
                fields += [(f"#{name}", order + types[0]), (name, order + types[1], 3)]
            else:
                fields.append((name, order + types[0]))
        rows = np.dtype(fields)
        end = place + rows.itemsize * element.count
        if rows.itemsize and end <= len(source):
            table = np.frombuffer(source, rows, element.count, place)
            if all((table[f"#{name}"] == 3).all() for name in lists):
                return {name: table[name] for name in element.properties}, end
    row = 0

    def taken(kind: str, length: int) -> list[float]:
        """Reads the next `length` numbers of a type; in text each is one word."""
        nonlocal place
        begin, size = place, np.dtype(kind).itemsize if isinstance(source, bytes) else 1
        place += length * size
        if length < 0 or place > len(source):
            raise Refusal(file, f"element {element.name}", f"ends in row {row}", "bring the whole file back")
        if isinstance(source, bytes):
            return np.frombuffer(source, order + kind, length, begin).tolist()
        try:
            values = [float(word) for word in source[begin:place]]
        except ValueError:
            values = [np.nan]
        if not np.isfinite(values).all():
            problem = f"has something else than numbers in row {row}"
            raise Refusal(file, f"element {element.name}", problem, LIKE_OFF)
        return values

    columns: dict[str, list[list[float]]] = {name: [] for name in element.properties}
    for row in range(element.count):  # noqa: B007  a refusal names it
        for name, (*of_length, kind) in element.properties.items():
            length = int(taken(of_length[0], 1)[0]) if of_length else 1
            columns[name].append(taken(kind, length))
    of_lists = {name: [[int(one) for one in row] for row in columns[name]] for name in lists}
    plain = {name: np.array(columns[name]).reshape(-1) for name in columns if name not in lists}
    return {**plain, **of_lists}, place
