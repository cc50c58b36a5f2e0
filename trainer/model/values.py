"""Values for the parameters of a network, written one parameter at a time to a rank's part of them."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast, runtime_checkable
from unittest.mock import patch

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from moe.adapters import mean_module
from moe.seeds import derive_seed
from netsim.foundation.refusal import Refusal
from trainer.config.document import read_document
from trainer.config.model import NetworkConfig
from trainer.model.network import StatesInitial
from trainer.model.parallel.state import Shard, StatePiece, held_pieces
from trainer.model.weight_files import Weights, open_weights


@contextmanager
def bare_parameters() -> Iterator[None]:
    """While entered, every parameter that a module registers is on the meta device, and drawing it costs nothing."""
    registered = nn.Module.register_parameter

    def register(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            param = _like(param, torch.empty_like(param, device="meta"))
        registered(module, name, param)

    with patch.object(nn.Module, "register_parameter", register), NothingDrawn():
        yield


class NothingDrawn(TorchFunctionMode):
    """Skips Gaussian draws on the meta device, since torch imports 800 modules for the first of them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if func in (Tensor.normal_, nn.init.normal_):
            values = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if values.is_meta:
                return values
        return func(*args, **kwargs)


def is_bare(module: nn.Module) -> bool:
    """Whether parameters of a network still lack memory."""
    return any(parameter.is_meta for parameter in module.parameters())


def give_memory(module: nn.Module, memory: Callable[[Tensor], Tensor]) -> None:
    """Replaces meta parameters by the results of `memory`, under the same names and with the same attributes."""
    given: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.is_meta:
                if id(parameter) not in given:
                    given[id(parameter)] = _like(parameter, memory(parameter))
                part.register_parameter(name, given[id(parameter)])


def _like(parameter: nn.Parameter, values: Tensor) -> nn.Parameter:
    made = nn.Parameter(values.detach(), requires_grad=parameter.requires_grad)
    vars(made).update(vars(parameter))
    return made


N = TypeVar("N", bound=nn.Module)
_DRAWN_AT_ONCE = re.compile(r"((?:^|.*\.)(?:experts\.\d+|shared_experts|router))\.(.+)")
"""What a mixture draws together, and the name of one parameter in it."""


class Values(Protocol):
    """A source of parameter values."""

    def of(self, piece: StatePiece) -> Tensor | None:
        """CPU values for a piece, whose own tensor is not read, valid until the next call; None: keep its values."""
        ...


@runtime_checkable
class DrawsExperts(Protocol):
    """A mixture of experts, known without importing Megatron."""

    def initial_values(self, part: str) -> Mapping[str, Tensor]:
        """Whole float32 CPU values by name in ``router``, ``shared_experts`` or ``experts.`` with a logical id."""
        ...


class DrawnValues:
    """First values, each drawn whole by a generator that depends on the seed and the parameter's name alone.

    The innermost module that defines them decides; without one, values stay. Only the last parameter is in memory.
    """

    def __init__(self, network: nn.Module, seed: int) -> None:
        self._modules = dict(network.named_modules())
        self._seed = seed
        self._last: tuple[str, Mapping[str, Tensor]] = ("", {})

    def of(self, piece: StatePiece) -> Tensor | None:
        origin, own_name = drawn_at_once(piece.name)
        if self._last[0] != origin or own_name not in self._last[1]:
            self._last = ("", {})  # two parameters are never there at once
            self._last = (origin, self._draw(origin, piece))
        whole = self._last[1].get(own_name)
        return None if whole is None else piece.of(whole)

    def _draw(self, origin: str, piece: StatePiece) -> Mapping[str, Tensor]:
        for path in _paths_around(piece.name):
            module, inside = self._modules.get(path), len(path) + 1 if path else 0
            if isinstance(module, DrawsExperts):
                return module.initial_values(origin[inside:])
            if isinstance(module, StatesInitial):
                generator = torch.Generator().manual_seed(derive_seed(self._seed, piece.name))
                return {
                    drawn_at_once(piece.name)[1]: module.initial(piece.name[inside:], piece.shape).draw(
                        piece.shape, generator
                    )
                }
        return {}


class SavedValues:
    def __init__(self, weights: Weights, otherwise: Values | None = None, new: tuple[str, ...] = ()) -> None:
        """Parameters that begin with `new` are not read; `otherwise` gives their values, None: they keep theirs."""
        self._weights, self._otherwise, self._new = weights, otherwise, new

    def of(self, piece: StatePiece) -> Tensor | None:
        if piece.name.startswith(self._new):
            return None if self._otherwise is None else self._otherwise.of(piece)
        return self._weights.rectangle(piece.name, piece.offset, piece.tensor.shape)


class GivenValues:
    """Values of whole parameters by name; parameters without a name here keep theirs."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights

    def of(self, piece: StatePiece) -> Tensor | None:
        whole = self._weights.get(piece.name)
        return None if whole is None else piece.of(whole)


@torch.no_grad()
def fill(pieces: Iterable[StatePiece], values: Values) -> None:
    """Writes values to pieces, a parameter at a time in the order of the network; pieces may overlap."""
    together: dict[str, list[StatePiece]] = {}
    for piece in pieces:
        together.setdefault(drawn_at_once(piece.name)[0], []).append(piece)
    for of_one in together.values():
        for piece in of_one:
            content = values.of(piece)
            if content is not None:
                piece.tensor.copy_(content)


def kept_weights(shards: Iterable[Shard], masters: Iterable[StatePiece]) -> list[StatePiece]:
    """Every place where an engine keeps a weight, once, whether or not shards and masters share memory."""
    computed_with = [
        StatePiece(shard.name, "weight", shard.shape, offset, values)
        for shard in shards
        for offset, values in shard.region.rectangles(shard.tensor)
    ]
    places = {piece.tensor.data_ptr(): piece for piece in (*computed_with, *masters)}
    return [*places.values()]


def initialised(network: N, seed: int) -> N:
    """Draws the initial values of an undivided network in place, as far as its modules define them."""
    fill(held_pieces(network), DrawnValues(network, seed))
    return network


def drawn_at_once(name: str) -> tuple[str, str]:
    """The unit that one generator draws (an expert, a router or a single parameter), and the parameter's name in it."""
    match = _DRAWN_AT_ONCE.fullmatch(name)
    return cast(tuple[str, str], match.groups()) if match else (name, "")


def _paths_around(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition(".")[0]
        yield name


class SavedModules:
    """Saved modules (for low-rank adapters their mean) with fresh routing (Caccia et al., arXiv 2211.03831, 3.2)."""

    def __init__(self, weights: Weights, routing: Values) -> None:
        self._weights, self._routing = weights, routing

    def of(self, piece: StatePiece) -> Tensor | None:
        layer, _, name = piece.name.rpartition(".")
        if name in ("A_RI", "B_OR"):
            saved = (self._weights.tensor(f"{layer}.{module}") for module in ("A_HMIR", "B_HMRO"))
            A_RD, B_PR = mean_module(*saved)
            return piece.of(A_RD if name == "A_RI" else B_PR)
        if layer.endswith(".routing"):
            return self._routing.of(piece)
        return self._weights.rectangle(piece.name, piece.offset, piece.tensor.shape)


ROUTERS = "routers.safetensors"
_REMEDY = "give the ema.safetensors of a run with the same model"
_DAMAGED = "restore it from a copy, or delete the folder"


def check_weights(path: Path, shapes: Mapping[str, tuple[int, ...]], remedy: str = _REMEDY) -> None:
    """Refuses weights that :func:`initialise_from` could not use, without reading their values."""
    try:
        with open_weights(path) as weights:
            present = {name: weights.shape(name) for name in weights.names}
    except (OSError, SafetensorError) as error:
        raise Refusal(path, "weights", f"cannot be read ({error})", remedy) from error
    for name, shape in shapes.items():
        if name not in present:
            raise Refusal(path, name, "is missing", remedy)
        if present[name] != shape:
            raise Refusal(path, name, f"has shape {present[name]}, not {shape}", remedy)


def check_meaning(path: Path, model: NetworkConfig, otherwise: str = "begin without model.init_from") -> None:
    """Refuses weights of the right shapes that, by the configuration beside them, if any, compute something else."""
    beside = path.parent / "config.yaml"
    if not beside.is_file():
        return
    written = read_document(beside).get("model")
    if not isinstance(written, dict) or written.get("kind", model.kind) != model.kind:
        return
    for name in model.unseen_in_shapes:
        own = getattr(model, name)
        theirs = written.get(name, type(model).model_fields[name].default)
        if theirs != own:
            shown = str(theirs).lower() if isinstance(theirs, bool) else theirs
            remedy = f"set model.{name}={shown}, or {otherwise}"
            raise Refusal(beside, f"model.{name}", f"is {shown}, and this run has {own}", remedy)


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise Refusal(path, "tensors", f"cannot be read ({error})", _DAMAGED) from error


def load_routers(model: nn.Module, folder: Path) -> None:
    """Loads router state besides weights, matched by name and shape, from ``routers.safetensors`` if there is one."""
    path = folder / ROUTERS
    if path.exists():
        own = model.state_dict()
        learned = {
            name: value for name, value in read_tensors(path).items() if name in own and own[name].shape == value.shape
        }
        model.load_state_dict(learned, strict=False)


def initialise_from(model: nn.Module, path: Path, new: tuple[str, ...] = ()) -> None:
    """Fills a network, or this rank's part of it, and its routers from checked weights; parameters in `new` stay."""
    with open_weights(path) as weights:
        fill(held_pieces(model), SavedValues(weights, new=new))
    load_routers(model, path.parent)
