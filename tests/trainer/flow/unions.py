"""Lists the kinds of a component, so that a contract test meets a new kind on the day it is added."""

from typing import Any, get_args

from netsim.foundation.own_class import OwnClass


def members(union: Any) -> tuple[type, ...]:
    """Returns the configuration classes of a `Config`, be it one class or a union, but for a class of a user's."""
    inner = get_args(union)[0] if get_args(union) else union
    return tuple(member for member in get_args(inner) or (inner,) if not issubclass(member, OwnClass))


OF_LETTERS = {"gumbel_softmax", "token", "cross_entropy"}
"""Parts of flows over letters, whose laws are in test_letters."""


def of_values(union: Any) -> tuple[type, ...]:
    """Returns the members that make sense for states of any values."""
    return tuple(member for member in members(union) if member.model_fields["kind"].default not in OF_LETTERS)


def name(member: type) -> str:
    """Returns the kind of a configuration class, to name a test by."""
    return member().kind
