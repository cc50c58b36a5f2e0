"""Checks a class of the user's that takes the place of a built-in part: it is importable and keeps a protocol."""

import importlib
import inspect
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model

_ALLOWED: ContextVar[tuple[Collection[str], str] | None] = ContextVar("allowed", default=None)


@contextmanager
def importing_only(paths: Collection[str] | None, remedy: str) -> Iterator[None]:
    """A block in which only classes at these ``module:Class`` paths are imported (None: all); others get the remedy."""
    token = _ALLOWED.set(None if paths is None else (paths, remedy))
    try:
        yield
    finally:
        _ALLOWED.reset(token)


def check_allowed(path: str) -> None:
    """Refuses a class that a block of `importing_only` leaves out, with a ValueError."""
    allowed = _ALLOWED.get()
    if allowed is not None and path not in allowed[0]:
        raise ValueError(f"{path} is code of whoever wrote this file, and is not imported unasked; {allowed[1]}")


def imported_class(path: str) -> type:
    """The class that ``module:Class`` names, in the working directory or an installed package, or a ValueError."""
    custom = imported_member(path)
    if not isinstance(custom, type):
        module_name, _, class_name = path.partition(":")
        raise ValueError(f"{module_name} has no class {class_name}; correct the name")
    return custom


def imported_member(path: str) -> object:
    """The object that ``module:Class`` names, None if the module lacks it; a ValueError if there is no such module."""
    module_name, colon, class_name = path.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
        raise ValueError(f"{path!r} does not name a class; write module:Class")
    check_allowed(path)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the code of a user's module leads to
        reason = " ".join(f"{type(error).__name__}: {error}".split()).replace("; ", ", ")
        raise ValueError(
            f"{module_name} cannot be imported ({reason}); run from the folder that contains it, or install it"
        ) from error
    return getattr(module, class_name, None)


def imported_protocol(path: str) -> type:
    """The protocol at a dotted path, such as ``trainer.flow.coupling.Coupling``."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def breach(custom: type, path: str) -> str | None:
    """How a class breaks the protocol at a dotted path, with the remedy; None if it keeps it, as far as a class shows.

    A class that extends the protocol inherits the methods that it defines; another one has to offer them too.
    """
    protocol = imported_protocol(path)
    abstract: frozenset[str] = getattr(protocol, "__abstractmethods__", frozenset())
    for name, declared in _members(protocol).items():
        if not inspect.isfunction(declared):
            continue  # a property, which an instance may have as an attribute
        offered = getattr(custom, name, None)
        remedy = "write it as the protocol declares it"
        must_write = name in abstract if abstract else _only_declares(declared)
        if not must_write:
            remedy = f"extend {path}, which defines it, or {remedy}"
        if not callable(offered) or (offered is declared and must_write):
            return f"{custom.__name__} lacks the method {name} of {path}; {remedy}"
        own = inspect.getattr_static(custom, name)
        objection = _mismatch(own, declared) if inspect.isfunction(own) else None
        if objection is not None:
            return f"{custom.__name__}.{name} cannot be called as {path}.{name} is ({objection}); {remedy}"
    return None


def missing_attributes(part: object, path: str) -> list[str]:
    """The attributes that the protocol at a dotted path declares and an instance lacks."""
    protocol = imported_protocol(path)
    annotated = [name for base in _bases(protocol) for name in inspect.get_annotations(base)]
    read = [name for name, member in _members(protocol).items() if isinstance(member, property)]
    return [name for name in (*annotated, *read) if not name.startswith("_") and not hasattr(part, name)]


@lru_cache(maxsize=64)
def settings_of(custom: type, reserved: tuple[str, ...]) -> type[BaseModel]:
    """The model of a class's settings: its own `Config` where unknown keys are refused, or one made of its `__init__`.

    `reserved` are parameters of `__init__` that are no settings.
    """
    own = own_config(custom)
    if own is not None:
        extra = own.model_config.get("extra") or "ignore"
        return own if extra != "ignore" else _forbidding(own)
    parameters = init_parameters(custom)
    try:
        types = get_type_hints(custom if issubclass(custom, BaseModel) else _init(custom))
    except Exception:  # a name that only type checkers import
        types = {}
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    fields: dict[str, Any] = {
        name: (types.get(name, Any), ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name not in reserved
    }
    config = ConfigDict(
        extra="allow" if passes_on else "forbid",
        frozen=True,
        arbitrary_types_allowed=True,
        protected_namespaces=(),
    )
    return create_model(f"{custom.__name__}Settings", __config__=config, **fields)


def own_config(custom: type) -> type[BaseModel] | None:
    """The pydantic model `Config` of a class; None: it has none."""
    config = getattr(custom, "Config", None)
    return config if isinstance(config, type) and issubclass(config, BaseModel) else None


def init_parameters(custom: type) -> dict[str, inspect.Parameter]:
    """Parameters of a class's `__init__` without `self`; of a subclass of a pydantic model its fields but `kind`."""
    if issubclass(custom, BaseModel):
        return {name: field for name, field in inspect.signature(custom).parameters.items() if name != "kind"}
    init = _init(custom)
    return {} if init is object.__init__ else dict(list(inspect.signature(init).parameters.items())[1:])


def _init(custom: type) -> Any:
    """The `__init__` that a class has or inherits; `__init__` methods of protocols do not count."""
    owners = (base for base in custom.__mro__ if "__init__" in vars(base) and not getattr(base, "_is_protocol", False))
    return next(owners).__init__


def _forbidding(config: type[BaseModel]) -> type[BaseModel]:
    """A subclass of the model that refuses unknown keys."""
    return type(
        config.__name__, (config,), {"model_config": ConfigDict(extra="forbid"), "__module__": config.__module__}
    )


def _bases(protocol: type) -> list[type]:
    """A protocol and those that it extends."""
    return [base for base in protocol.__mro__ if getattr(base, "_is_protocol", False) and base.__module__ != "typing"]


def _members(protocol: type) -> dict[str, Any]:
    """Methods and properties of a protocol, by name."""
    custom: dict[str, Any] = {}
    for base in reversed(_bases(protocol)):
        for name, member in vars(base).items():
            public = not name.startswith("_") or name == "__call__"
            if public and (inspect.isfunction(member) or isinstance(member, property)):
                custom[name] = member
    return custom


def _mismatch(own: Any, declared: Any) -> str | None:
    """Why a method cannot be called with the arguments of another one; None if it can."""
    positional: list[None] = []
    named: dict[str, None] = {}
    for name, parameter in inspect.signature(declared).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            named[name] = None
        elif parameter.kind is not parameter.VAR_KEYWORD:
            positional.append(None)
    try:
        inspect.signature(own).bind(*positional, **named)
    except TypeError as error:
        return str(error)
    return None


def _nothing() -> None:
    """An empty body, to compare the bodies of methods with."""
    ...


def _only_declares(method: Any) -> bool:
    """Whether the body of a method is empty, so that a class has to write it where no method is marked as abstract."""
    return method.__code__.co_code == _nothing.__code__.co_code
