"""Values for the parameters of a network, brought one by one to where a rank keeps what it needs of them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor, nn

from moe.seeds import derive_seed
from trainer.model.layer.initial import StatesInitial
from trainer.model.parallel.parameters import held_pieces
from trainer.model.parallel.state import Shard, StatePiece
from trainer.model.weight_files import Weights

N = TypeVar("N", bound=nn.Module)
_DRAWN_AT_ONCE = re.compile(r"((?:^|.*\.)(?:experts\.\d+|shared_experts|router))\.(.+)")
"""What a mixture draws together, and the name of one parameter in it."""


class Values(Protocol):
    """Where values come from."""

    def of(self, piece: StatePiece) -> Tensor | None:
        """The values of a rectangle of a parameter.

        Args:
            piece: which; its tensor is not read.

        Returns:
            On the CPU, shaped like the rectangle, valid until the next call; None: whatever is there stays.
        """
        ...


@runtime_checkable
class DrawsExperts(Protocol):
    """A mixture of experts, known without importing Megatron."""

    def initial_values(self, part: str) -> Mapping[str, Tensor]:
        """Whole float32 values on the CPU of ``router``, ``shared_experts`` or ``experts.`` with a logical id, by name
        in it.
        """
        ...


class DrawnValues:
    """Initial values, each drawn by a generator of its own: a function of the seed and of the parameter's name.

    A parameter is drawn whole, and the last one alone is kept. It begins with what the innermost module around it says
    that says anything, and keeps its values where none does.
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
    """Those of saved weights, of which only what is asked for is read."""

    def __init__(self, weights: Weights, otherwise: Values | None = None, new: tuple[str, ...] = ()) -> None:
        """Reads nothing yet; the weights are checked, and parameters that begin with `new` are not read.

        `otherwise` gives the values of new parameters; None: they keep theirs.
        """
        self._weights, self._otherwise, self._new = weights, otherwise, new

    def of(self, piece: StatePiece) -> Tensor | None:
        if piece.name.startswith(self._new):
            return None if self._otherwise is None else self._otherwise.of(piece)
        return self._weights.rectangle(piece.name, piece.offset, piece.tensor.shape)


@torch.no_grad()
def fill(pieces: Iterable[StatePiece], values: Values) -> None:
    """Writes values to pieces, a parameter at a time in the order of the network; several may be of the same values."""
    together: dict[str, list[StatePiece]] = {}
    for piece in pieces:
        together.setdefault(drawn_at_once(piece.name)[0], []).append(piece)
    for of_one in together.values():
        for piece in of_one:
            found = values.of(piece)
            if found is not None:
                piece.tensor.copy_(found)


def kept_weights(shards: Iterable[Shard], masters: Iterable[StatePiece]) -> list[StatePiece]:
    """Every place where an engine keeps a weight, once; shards and masters are the same memory, or other."""
    computed_with = [
        StatePiece(shard.name, "weight", shard.shape, offset, values)
        for shard in shards
        for offset, values in shard.rectangles(shard.tensor)
    ]
    places = {piece.tensor.data_ptr(): piece for piece in (*computed_with, *masters)}
    return [*places.values()]


def initialised(network: N, seed: int) -> N:
    """Gives a network that no engine has divided its initial values, in place, as far as its modules say them."""
    fill(held_pieces(network), DrawnValues(network, seed))
    return network


def drawn_at_once(name: str) -> tuple[str, str]:
    """What one generator draws (an expert, a router, a parameter alone), and the name of a parameter in it."""
    found = _DRAWN_AT_ONCE.fullmatch(name)
    return cast(tuple[str, str], found.groups()) if found else (name, "")


def _paths_around(name: str) -> Iterator[str]:
    """Paths of the modules around a parameter, the innermost first and the network's last."""
    while name:
        name = name.rpartition(".")[0]
        yield name
