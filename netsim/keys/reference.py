"""The reference of the keys of a scenario."""

from netsim.errors import InputError
from netsim.foundation.reference import chosen, show
from netsim.scenario import Scenario


def run(prefix: str | None) -> int:
    """Prints the keys of a scenario.

    Args:
        prefix: dotted, such as ``topology`` or ``topology.fat_tree``; None: print all, with the first sentence of each
            meaning.

    Raises:
        InputError: no key begins so.
    """
    try:
        found = chosen(Scenario.schema(), prefix, "a scenario")
    except ValueError as error:
        field, _, rest = str(error).partition(": ")
        problem, _, remedy = rest.partition("; ")
        raise InputError("command line", field, problem, remedy) from None
    show(found, whole=prefix is not None)
    return 0
