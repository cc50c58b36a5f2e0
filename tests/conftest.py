"""What holds for all tests."""

import gc


def pytest_collection_finish() -> None:
    """Spares every search for garbage what has been imported by now: runs and verbs begin and end with a search."""
    gc.collect()
    gc.freeze()
