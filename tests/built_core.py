"""netsim with its core built in another way, as a copy for commands that run on it."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree, ignore_patterns
from tempfile import TemporaryDirectory

import netsim


@contextmanager
def netsim_with(setting: str) -> Iterator[dict[str, str]]:
    """Builds the core, and gives the environment of a process whose netsim has it.

    A second build with the same setting compiles only what has changed since. Start Python with ``-P``.

    Args:
        setting: Of CMake, such as ``TRACE=ON``.

    Raises:
        subprocess.CalledProcessError: The core cannot be built.
    """
    package = Path(netsim.__file__).parent
    build, module = package.parent / "build" / f"core-{setting}", f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"
    where = ("-S", package / "engine/core", "-B", build, "-G", "Ninja")
    for words in (
        ("--fresh", *where, f"-D{setting}", f"-DPython_EXECUTABLE={sys.executable}"),
        ("--build", build, "--target", "_core"),
    ):
        subprocess.run(["cmake", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "netsim"
        copytree(package, copy, ignore=ignore_patterns("__pycache__", "*.so"))
        (copy / "engine" / module).write_bytes((build / module).read_bytes())
        yield os.environ | {"PYTHONPATH": os.pathsep.join([folder, str(package.parent)])}
