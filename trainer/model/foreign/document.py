"""The config.json of another package's network, and what of it has no counterpart here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netsim.foundation.documents import parse_json
from netsim.foundation.refusal import Refusal

NAME = "config.json"
_REMEDY = "give the folder as its package wrote it"


class Document:
    """Settings that are read key by key.

    Attributes:
        path: of the file.
        values: what it holds.
        largest: size that no width or number of layers exceeds, as far as it is known.
    """

    largest: int | None = None

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path, self.values = path, values

    @classmethod
    def read(cls, folder: Path) -> "Document":
        """Reads config.json in a folder."""
        path = folder / NAME
        remedy = "give a folder that save_pretrained of diffusers or transformers wrote"
        try:
            values = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Refusal(path, "network", f"cannot be read ({error})", remedy) from error
        if not isinstance(values, dict):
            raise Refusal(path, "network", "is not an object of settings", remedy)
        return cls(path, values)

    def size(self, key: str, default: int | None = None) -> int:
        """A width, a number of layers or another size that shapes of weights follow from; see :meth:`whole`."""
        value = self.whole(key, default)
        if self.largest is not None and value > self.largest:
            raise Refusal(self.path, key, f"is {value}, and the weights have no size above {self.largest}", _REMEDY)
        return value

    def whole(self, key: str, default: int | None = None) -> int:
        """A number of 1 or more; without a default it has to be there."""
        value = self.values.get(key)
        value = default if value is None else value
        if value is None:
            raise Refusal(self.path, key, "is missing", _REMEDY)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise Refusal(self.path, key, f"is not a whole number of 1 or more ({value!r})", _REMEDY)
        return value

    def number(self, key: str, default: float) -> float:
        """A number; `default` where it is missing or null."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise Refusal(self.path, key, f"is not a number ({value!r})", _REMEDY)
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """A truth value; `default` where it is missing or null."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise Refusal(self.path, key, f"is neither true nor false ({value!r})", _REMEDY)
        return value

    def choice(self, key: str, choices: Mapping[str, str], default: str) -> str:
        """The name here of a word there; `default` where it is missing."""
        value = self.values.get(key, default)
        if not isinstance(value, str) or value not in choices:
            self.refuse(key, value, f"choose a network with one of {', '.join(choices)}")
        return choices[value]

    def expect(self, key: str, value: Any, remedy: str) -> None:
        """Refuses a setting that has another value; one that is missing or null is let through."""
        found = self.values.get(key)
        if found is not None and found != value:
            self.refuse(key, found, remedy)

    def expect_none(self, *keys: str, remedy: str) -> None:
        """Refuses settings that are there at all, unless they are null, false or empty."""
        for key in keys:
            if self.values.get(key):
                self.refuse(key, self.values[key], remedy)

    def refuse(self, key: str, value: Any, remedy: str) -> None:
        """Refuses a setting."""
        raise Refusal(self.path, key, f"is {value!r}, for which networks here have no counterpart", remedy)
