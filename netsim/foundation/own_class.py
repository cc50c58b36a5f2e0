"""A class of a user's where a configuration names a kind: ``{class: "my_module:Mine", ...its settings}``.

A part says which protocol its classes keep, and lists that type in its union:

    class OwnCoupling(OwnClass):
        \"\"\"A coupling of the user's.\"\"\"

        protocol: ClassVar[str] = "trainer.flow.coupling.Coupling"

    Config = Annotated[Independent | Paired | OwnCoupling, KindOrClass()]

    def build(config: Config) -> Coupling:
        match config:
            case OwnCoupling():
                return build_own(config)

A user then writes a module

    class Mine(Coupling):
        class Config(BaseModel):
            window: int = 3

        def __init__(self, config: Config) -> None: ...

and in a run configuration ``coupling: {class: "my_module:Mine", window: 5}``. Without a `Config` the settings are the
arguments of ``__init__``, checked by its types.
"""

from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    Field,
    GetCoreSchemaHandler,
    SerializationInfo,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from netsim.foundation.complaint import first_complaint
from netsim.foundation.contract import (
    breach,
    imported_class,
    init_parameters,
    missing_attributes,
    own_config,
    settings_of,
)
from netsim.foundation.refusal import prefixed


class OwnClass(BaseModel, frozen=True, extra="forbid"):
    """A section that names a class: the class is imported, held to the protocol, and given the other keys as settings.

    It is written out as it was read, ``{class: ..., **settings}`` with every default.

    Attributes:
        protocol: dotted path from which a user imports the protocol; set by each part.
        passed: names of what the part's `build` hands to a constructor that takes it by name; no settings.
        class_path: module and class, ``my_module:Mine``.
        settings: the class's `Config`, or a model with the arguments of its ``__init__``.
    """

    protocol: ClassVar[str]
    passed: ClassVar[tuple[str, ...]] = ()

    class_path: str
    settings: BaseModel

    @property
    def kind(self) -> str:
        """The class path, which stands for the name of a kind."""
        return self.class_path

    def setting(self, name: str, default: Any = None) -> Any:
        """The value of one setting, field or property of the settings, or the default of a class without it."""
        return getattr(self.settings, name, default)

    def with_settings(self, **changes: Any) -> Self:
        """The same class with other settings; ValueError if it does not take them."""
        return type(self).model_validate({**self.model_dump(), **changes})

    def imported(self) -> type:
        """Imports and returns the class."""
        return imported_class(self.class_path)

    def __hash__(self) -> int:
        """Hash of the class path alone, since settings may hold lists and mappings, which have no hash."""
        return hash(self.class_path)

    @model_validator(mode="before")
    @classmethod
    def _class_and_its_settings(cls, document: Any) -> Any:
        if not isinstance(document, dict) or "class" not in document:
            return document
        path, settings = class_and_settings(document)
        with prefixed("class: "):
            custom = imported_class(path)
        objection = breach(custom, cls.protocol)
        if objection is not None:
            raise ValueError(f"class: {objection}")
        return {"class_path": path, "settings": cls._read(custom, path, settings)}

    @classmethod
    def _read(cls, custom: type, path: str, settings: dict[str, Any]) -> BaseModel:
        read = read_settings(settings_of(custom, cls.passed), path, settings)
        own = own_config(custom)
        return read if own is None else own.model_validate(settings)

    @model_serializer(mode="plain")
    def _written(self, info: SerializationInfo) -> dict[str, Any]:
        settings = self.settings.model_dump(
            mode=info.mode,
            by_alias=True,
            exclude_unset=info.exclude_unset,
            warnings=False,  # a default may be of another type than its annotation
        )
        left_out, kept = info.exclude or (), settings if info.include is None else info.include
        return {"class": self.class_path} | {
            name: settings[name] for name in settings if name in kept and name not in left_out
        }


M = TypeVar("M", bound=BaseModel)


def class_and_settings(section: dict[Any, Any]) -> tuple[str, dict[str, Any]]:
    """Splits a section into its class path and its settings."""
    settings = {str(key): value for key, value in section.items() if key != "class"}
    path = section["class"]
    if "kind" in settings:
        raise ValueError(f"class: {path} is given beside kind {settings['kind']}; remove one of the two")
    if not isinstance(path, str):
        raise ValueError(f"class: {path!r} does not name a class; write module:Class")
    return path, settings


def read_settings(model: type[M], path: str, settings: dict[str, Any]) -> M:
    """Validates the settings of the class at a path; the ValueError begins with the field that it is about."""
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        complaint = first_complaint(error, settings, model)
        at_all = complaint.field == "document"
        head = f"class: {path} refuses its settings, " if at_all else f"{complaint.field}: "
        raise ValueError(f"{head}{complaint.reason}") from error


class KindOrClass:
    """Tells the members of a union apart: by `class` an `OwnClass`, by `kind` all others.

    It stands in the place of pydantic's ``Field(discriminator="kind")``, in a union of one `OwnClass` and the sections
    of built-in parts.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validates by pydantic; errors about kinds are those of the union without the `OwnClass`."""
        members = get_args(source)
        (own,) = (member for member in members if issubclass(member, OwnClass))
        kinds = [member for member in members if member is not own]
        union = kinds[0] if len(kinds) == 1 else Annotated[reduce(or_, kinds), Field(discriminator="kind")]
        return core_schema.no_info_wrap_validator_function(
            lambda value, by_kind: own.model_validate(value) if _names_a_class(value) else by_kind(value),
            handler.generate_schema(union),
            serialization=core_schema.wrap_serializer_function_ser_schema(_serialised, info_arg=True),
        )


def build_own(config: OwnClass, **passed: Any) -> Any:
    """An instance of a user's class: ``Mine(config)`` where it has a `Config`, or else ``Mine(**settings)``.

    `passed` has further arguments by the names in `OwnClass.passed`; the constructor gets those that it takes. A
    ValueError names a missing attribute of the protocol.
    """
    custom = config.imported()
    parameters = init_parameters(custom)
    asked = {name: value for name, value in passed.items() if name in parameters}
    by_config = own_config(custom) is not None
    try:
        part = custom(config.settings, **asked) if by_config else custom(**dict(config.settings), **asked)
    except SystemExit as error:
        raise ValueError(f"{config.class_path} ends the program when it is made; raise an error instead") from error
    missing = missing_attributes(part, config.protocol)
    if missing:
        raise ValueError(
            f"{config.class_path} lacks the attribute {missing[0]} of {config.protocol}; set it in the class or "
            "in its __init__"
        )
    return part


def _names_a_class(value: Any) -> bool:
    return isinstance(value, OwnClass) or (isinstance(value, dict) and "class" in value)


def _serialised(value: Any, by_kind: Callable[[Any], Any], info: SerializationInfo) -> Any:
    if not isinstance(value, OwnClass):
        return by_kind(value)
    return value.model_dump(mode=info.mode, exclude_unset=info.exclude_unset)
