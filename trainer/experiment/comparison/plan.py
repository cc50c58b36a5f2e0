"""Which methods are compared, and which are left out and why; decided before anything is written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from trainer.config.document import read_document
from trainer.experiment.comparison.method import Base, Method, method_of, read_base, read_own
from trainer.experiment.comparison.results import Fabric
from trainer.experiment.stage import ConfiguredStage, check_stages
from trainer.sampling.flow import check_latents

FABRIC = Path("configs/scenarios/sampling_64.yaml")


@dataclass(frozen=True, kw_only=True)
class CompareRequest:
    """A comparison, in the words of its command line; without a fabric it is priced on `FABRIC`."""

    words: Sequence[str]
    base: Path
    out: Path
    seeds: int
    ranks: int
    jobs: int
    evaluations: tuple[int, ...]
    num: int
    fabric: Path | None
    fabric_ranks: int
    fabric_examples: int
    teraflops: float

    def check(self) -> None:
        """Refuses numbers that are too small, and a fabric that is none."""
        options = {
            "--seeds": (self.seeds, 1),
            "--nproc": (self.ranks, 1),
            "--jobs": (self.jobs, 1),
            "--num": (self.num, 2),
            "--fabric-ranks": (self.fabric_ranks, 1),
            "--fabric-examples": (self.fabric_examples, 1),
        }
        for name, (value, least) in options.items():
            if value < least:
                raise ValueError(f"{name}: {value} is below {least}; use {least} or more")
        if self.fabric is not None and "topology" not in read_document(self.fabric, "configs/scenarios"):
            raise ValueError(f"--fabric: {self.fabric} has no topology; give one of configs/scenarios")
        if not 0 < self.teraflops < math.inf:
            raise ValueError(f"--teraflops: {self.teraflops:g} is not a rate; use what a rank sustains, such as 400")

    @property
    def priced_on(self) -> Fabric:
        """The ranks that samples are priced on."""
        return Fabric(str(self.fabric or FABRIC), self.fabric_ranks, self.fabric_examples, self.teraflops)

    @property
    def command(self) -> list[str]:
        """The command line that asks for it, behind ``python -m trainer``."""
        choices = {"base": self.base, "seeds": self.seeds, "nproc": self.ranks, "jobs": self.jobs, "num": self.num}
        choices |= {"evaluations": ",".join(map(str, self.evaluations)), "fabric": self.fabric or FABRIC}
        choices |= {"fabric-ranks": self.fabric_ranks, "fabric-examples": self.fabric_examples}
        choices |= {"teraflops": f"{self.teraflops:g}", "out": self.out}
        return ["compare", *self.words, *(f"--{name}={value}" for name, value in choices.items())]


@dataclass(frozen=True)
class Plan:
    """Methods that are trained, and the names of those left out with the reason."""

    base: Base
    methods: list[Method]
    left_out: dict[str, str]


def prepare(words: Sequence[str], base: Path, out: Path, ranks: int) -> Plan:
    """Decides what is trained, before anything is written; `words`: configurations and ``dotted.key=value``."""
    overrides = [word for word in words if "=" in word]
    of_stages = [override for override in overrides if override.startswith("stages.")]
    paths = [Path(word) for word in words if "=" not in word]
    if not paths:
        raise ValueError("CONFIG: there is no method to compare; give configurations such as configs/methods/*.yaml")
    for path, count in ((path, sum(other.stem == path.stem for other in paths)) for path in paths):
        if count > 1:
            raise ValueError(f"CONFIG: {count} files are called {path.stem}; a method has the name of its file")
    shared = read_base(base, [word for word in overrides if word not in of_stages], out)
    own = {path: read_own(path) for path in paths}
    known = {entry["name"] for document in own.values() for entry in document.get("stages") or ()}
    for override in of_stages:
        if override.removeprefix("stages.").partition(".")[0] not in known:
            raise ValueError(f"{override}: no method has that stage; use one of {', '.join(sorted(known)) or 'none'}")
    methods: list[Method] = []
    left_out: dict[str, str] = {}
    for path, document in own.items():
        try:
            method = method_of(path, document, shared, of_stages, out)
            _check(method, shared, methods, ranks)
        except ValueError as error:
            if _malformed(error):
                raise
            left_out[path.stem] = " ".join(str(error).split()).removeprefix(f"{path}: ")
        else:
            methods.append(method)
    if not methods:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ValueError(f"CONFIG: no method goes with {base}: {reasons}")
    return Plan(shared, methods, left_out)


def _malformed(error: BaseException | None) -> bool:
    """Whether what is said is that a method's flow has a key or a kind that there is not."""
    while error is not None and not isinstance(error, ValidationError):
        error = error.__cause__
    details = [] if error is None else error.errors()
    return any(detail["loc"][:1] == ("flow",) and detail["type"] != "value_error" for detail in details)


def _check(method: Method, base: Base, others: Sequence[Method], ranks: int) -> None:
    """Refuses a method that cannot be trained, whose samples begin elsewhere, or that equals another one."""
    for other in others:
        if _without_folder(other) == _without_folder(method):
            raise ValueError(f"it is the same run as {other.name}: their flow and stages are equal")
    stages = method.stages(Path(method.document["run"]["dir"]), 0)
    first = stages[0]
    if not isinstance(first, ConfiguredStage):
        raise ValueError(
            f"stages.{first.name}: the budget contains no training of its teacher; train one in a stage before it"
        )
    check_stages(stages, ranks)
    config = first.config()
    check_latents(config)
    if config.source_data != base.config.source_data:
        raise ValueError("flow.path.kind: its samples start at data, and those of the comparison at noise")


def _without_folder(method: Method) -> dict[str, object]:
    return {**method.document, "run": {**method.document["run"], "dir": None}}
