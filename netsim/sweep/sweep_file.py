"""The sweep file: a scenario, the values to try for some of its keys, and the hash of all that a cell depends on."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import Field, model_validator

import netsim
from netsim.foundation.documents import read_section
from netsim.foundation.files import file_digest
from netsim.foundation.refusal import Refusal
from netsim.foundation.schema import described
from netsim.foundation.settings import Section
from netsim.foundation.shipped import located
from netsim.simulation.scenario import Scenario, read_mapping, read_scenario
from netsim.sweep.winners import SweepMap

MOST_CELLS = 100_000

Key = Annotated[str, Field(pattern=r"^[^\s=]+$")]


Label = Annotated[str, Field(pattern=r"^[\w.+ -]{1,40}$")]
Values = Annotated[list[Any], Field(min_length=1)] | Annotated[dict[Label, Any], Field(min_length=1)]


class MapConfig(Section):
    """Section ``map``: a picture of which of two groups of transports wins where.

    Args:
        across: Dotted key that varies in the sweep, whose values are the columns.
        down: Another dotted key that varies, whose values are the rows.
        groups: Two groups of transports, by name. A group's time in a scenario is that of its fastest transport.
        titles: Titles of keys that vary, by key, which the picture shows in place of the keys.
    """

    across: Key
    down: Key
    groups: Annotated[dict[Label, Annotated[list[str], Field(min_length=1)]], Field(min_length=2, max_length=2)]
    titles: dict[Key, Annotated[str, Field(min_length=1, max_length=80)]] = Field(default={})


class SweepConfig(Section):
    """A whole sweep file. Every entry of `cells` is combined with every point of `grid`.

    Args:
        format: Name and version of the format.
        scenario: Path of a scenario, relative to the working directory, or the scenario itself.
        grid: Values to try for each dotted key: a list of values, or a mapping from short names, which tables and
            pictures show, to values. The last key varies fastest.
        cells: Further combinations of dotted keys and values, which need not form a grid.
        map: A picture of which of two groups of transports wins where.
    """

    format: Literal["flowfabric.sweep/1"]
    scenario: str | dict[str, Any]
    grid: dict[Key, Values] = Field(default={})
    cells: Annotated[list[dict[Key, Any]], Field(min_length=1)] = Field(default=[{}])
    map: MapConfig | None = None

    @model_validator(mode="after")
    def _something_varies(self) -> "SweepConfig":
        if not self.grid and self.cells == [{}]:
            raise ValueError("nothing varies; write grid, cells or both")
        twice = sorted(self.grid.keys() & {key for cell in self.cells for key in cell})
        if twice:
            raise ValueError(f"'{twice[0]}' is both in grid and in cells; remove it from one of them")
        count = len(self.cells) * prod(len(values) for values in self.grid.values())
        if count > MOST_CELLS:
            raise ValueError(f"these are {count} cells; try fewer values, at most {MOST_CELLS} cells are possible")
        return self

    @model_validator(mode="after")
    def _map_is_of_what_varies(self) -> "SweepConfig":
        varies = [*self.grid, *dict.fromkeys(key for cell in self.cells for key in cell)]
        for field in ("across", "down") if self.map else ():
            key = getattr(self.map, field)
            if key not in varies:
                raise ValueError(f"map.{field}: {key} does not vary; name one of {', '.join(varies)}")
        for key in self.map.titles if self.map else ():
            if key not in varies:
                raise ValueError(f"map.titles: {key} does not vary; name one of {', '.join(varies)}")
        if self.map and self.map.across == self.map.down:
            raise ValueError(f"map.down: {self.map.down} is map.across already; name another key that varies")
        return self

    @classmethod
    def schema(cls) -> dict[str, Any]:
        """The content of configs/schemas/sweep.schema.json, with all rules that JSON Schema can express."""
        some = {"anyOf": [{"required": ["grid"]}, {"required": ["cells"]}]}
        return described(cls) | some


_NO_PART_OF_A_RESULT = {"command", "report", "progress.py"}


class Input(NamedTuple):
    """A file that a scenario names, as it can be opened from the working directory, and the hash of its bytes."""

    path: str
    sha256: str


class Identity(NamedTuple):
    """Inputs of a cell besides its scenario: files in the order of their paths, and hash of the simulator's sources."""

    inputs: tuple[Input, ...]
    simulator: str


def identify(scenario: Scenario) -> Identity:
    """Hashes the inputs of a scenario; missing files are left out."""
    return Identity(tuple(Input(str(path), _sha256_of(path)) for path in _files(scenario)), simulator_sha256())


def content_hash(scenario: Scenario, identity: Identity) -> str:
    """16 hexadecimal digits, equal for two cells only if their results are."""
    content = {"scenario": scenario.resolved(), "inputs": identity.inputs, "simulator": identity.simulator}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def simulator_sha256() -> str:
    """Hash of the sources that determine the result of a run."""
    root = Path(netsim.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if name.parts[0] not in _NO_PART_OF_A_RESULT:
            digest.update(f"{name.as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _files(scenario: Scenario) -> list[Path]:
    """Every file that a key of the scenario names: a file, all files of a folder, or all files with that prefix."""
    files: set[Path] = set()
    for key, value in _entries(scenario.resolved()):
        if key == "class":
            files.update(_sources(value))
        elif key in ("path", "groups", "gaps", "table", "calibration"):
            path = located(Path(value), "calibrations")
            among = [path] if path.is_file() else path.iterdir() if path.is_dir() else _begun_by(path)
            files.update(file for file in among if file.is_file())
    return sorted(files)


def _entries(content: object) -> Iterator[tuple[str, str]]:
    """Keys and text values of all mappings in `content`, at any depth."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            if isinstance(value, str):
                yield key, value
            yield from _entries(value)
    elif isinstance(content, Sequence) and not isinstance(content, str):
        for item in content:
            yield from _entries(item)


def _begun_by(prefix: Path) -> Iterator[Path]:
    if prefix.parent.is_dir():
        yield from (path for path in prefix.parent.iterdir() if path.name.startswith(f"{prefix.name}."))


def _sources(class_path: str) -> Iterator[Path]:
    """The source file of a user's transport class, if it is found."""
    module = class_path.partition(":")[0]
    here = Path(f"{module.replace('.', '/')}.py")
    if here.is_file():
        yield here
        return
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return
    if spec and spec.origin:
        yield Path(spec.origin)


def _sha256_of(path: Path) -> str:
    state = path.stat()
    return _sha256(str(path.absolute()), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1024)
def _sha256(path: str, _modified_ns: int, _bytes: int) -> str:
    return file_digest(Path(path))


class Cell(NamedTuple):
    """A scenario of a sweep: `name` and `overrides` say what it changes; `key` is the hash of scenario and identity."""

    name: str
    overrides: dict[str, str]
    source: str
    scenario: Scenario
    identity: Identity
    key: str


class SweepFile(NamedTuple):
    """The cells of a sweep in order, by `cells`, then by `grid`, and the requested map."""

    cells: list[Cell]
    map: SweepMap | None


def read_sweep(path: Path) -> SweepFile:
    """Reads and checks a sweep and the scenario of every cell."""
    remedy = "write keys and values, format: flowfabric.sweep/1 first"
    config = read_section(path, "a sweep", "sweeps", SweepConfig, remedy)
    scenario = _scenario(config.scenario)
    cells: list[Cell] = []
    first: dict[str, str] = {}
    for combination in _combinations(config):
        cell = _cell(path, scenario, combination)
        if cell.key in first:
            problem = f"is the same scenario as cell {first[cell.key]}"
            raise Refusal(path, f"cell {cell.name}", problem, "remove one of the two")
        first[cell.key] = cell.name
        cells.append(cell)
    if config.map is None:
        return SweepFile(cells, None)
    _refuse_unknown_transports(path, config.map, cells)
    return SweepFile(cells, SweepMap(config.map.across, config.map.down, config.map.groups, config.map.titles))


def _refuse_unknown_transports(path: Path, shown: MapConfig, cells: Sequence[Cell]) -> None:
    """Refuses a map of transports that no cell has."""
    names = dict.fromkeys(transport.name for cell in cells for transport in cell.scenario.transports)
    for group, transports in shown.groups.items():
        for name in transports:
            if name not in names:
                problem = f"no scenario has a transport {name}"
                raise Refusal(path, f"map.groups.{group}", problem, f"name some of {', '.join(names)}")


def _scenario(source: str | dict[str, Any]) -> Mapping[str, Any]:
    return source if isinstance(source, dict) else read_mapping(Path(source))


class _Value(NamedTuple):
    """A value of a key, as YAML in one line, and its name."""

    name: str
    text: str


def _combinations(config: SweepConfig) -> Sequence[dict[str, _Value]]:
    grid = {
        key: [_Value(name, _text(value)) for name, value in values.items()]
        if isinstance(values, dict)
        else [_Value(_text(value), _text(value)) for value in values]
        for key, values in config.grid.items()
    }
    return [
        {key: _Value(_text(value), _text(value)) for key, value in cell.items()} | dict(zip(grid, point, strict=True))
        for cell in config.cells
        for point in product(*grid.values())
    ]


def _cell(path: Path, content: Mapping[str, Any], combination: Mapping[str, _Value]) -> Cell:
    changes = [f"{key}={value.text}" for key, value in combination.items()]
    overrides = {key: value.name for key, value in combination.items()}
    name = ", ".join(f"{key}={value}" for key, value in overrides.items()) or "without changes"
    source = f"{path}: cell {name}"
    try:
        scenario = read_scenario(content, changes)
    except Refusal as error:
        raise Refusal(source, error.field, error.problem, error.remedy) from None
    identity = identify(scenario)
    return Cell(name, overrides, source, scenario, identity, content_hash(scenario, identity))


def _text(value: object) -> str:
    """The value as YAML in one line."""
    dumped = yaml.safe_dump(value, default_flow_style=True, width=2**31, allow_unicode=True, sort_keys=False)
    return dumped.removesuffix("\n").removesuffix("\n...")
