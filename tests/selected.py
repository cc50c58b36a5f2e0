"""Which cases of parametrised tests are run, so that a fixture that they share prepares no others."""

from typing import Any

import pytest


def selected(request: pytest.FixtureRequest, parameter: str) -> list[Any]:
    """The values that a parameter has in the selected tests of a module.

    Args:
        request: of a fixture of the module.
        parameter: its name; its values are hashable.

    Returns:
        Each value once, in the order of the tests.
    """
    tests = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == request.path]
    parameters = [test.callspec.params for test in tests if hasattr(test, "callspec")]
    return list(dict.fromkeys(values[parameter] for values in parameters if parameter in values))
