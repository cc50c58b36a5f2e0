"""What holds for all tests."""

import gc


def pytest_collection() -> None:
    """Looks for no garbage among modules and cases that all stay."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Spares every search for garbage what has been imported by now: runs and verbs begin and end with a search."""
    gc.collect()
    gc.freeze()
    gc.enable()
