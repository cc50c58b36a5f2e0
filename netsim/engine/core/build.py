"""Builds the core when the package is built: a hook of hatchling, which calls CMake.

Without a compiler the package still installs: netsim runs on simpy, and moe places where nothing has to be searched.
"""

import subprocess
import sys
import sysconfig
from hashlib import sha256
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SOURCE = Path("netsim/engine/core")
_SOURCES = (_SOURCE, Path("moe/placement/solver/core"))
_MODULES = {"_core": "netsim/engine", "_kernels": "moe/placement/solver"}
"""Folder of the package in which each extension module goes."""


class CoreBuildHook(BuildHookInterface):
    """Compiles the extension modules; they go into the wheel, or beside their package if the install is editable."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Builds, and adds what was built to the wheel.

        Args:
            version: "standard" or "editable".
            build_data: What hatchling puts into the wheel.
        """
        root, suffix = Path(self.root), sysconfig.get_config_var("EXT_SUFFIX")
        build = root / "build" / f"core-{sysconfig.get_config_var('SOABI')}"
        stamp, digest = build / "built_from.sha256", _digest(root)
        if not (stamp.is_file() and stamp.read_text(encoding="ascii") == digest) and not self._compiled(root, build):
            return
        stamp.write_text(digest, encoding="ascii")
        for module, folder in _MODULES.items():
            built, place = build / f"{module}{suffix}", Path(folder) / f"{module}{suffix}"
            if version == "editable":
                (root / place).unlink(missing_ok=True)
                (root / place).write_bytes(built.read_bytes())
            else:
                build_data["force_include"][str(built)] = str(place)
        if version != "editable":
            build_data["pure_python"], build_data["infer_tag"] = False, True

    def _compiled(self, root: Path, build: Path) -> bool:
        """Compiles all modules; returns False where there is no compiler."""
        where = ("-S", root / _SOURCE, "-B", build, "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}")
        try:
            if not _runs("cmake", *where):  # an earlier build may have left paths of tools that are gone
                _run("cmake", "--fresh", *where)
        except (OSError, subprocess.CalledProcessError) as error:
            self.app.display_warning(
                f"the core is not compiled ({error}); netsim runs on simpy alone, and moe without most of its solvers"
            )
            return False
        _run("cmake", "--build", build)
        return True


def _digest(root: Path) -> str:
    """SHA-256 of all sources of the extension modules, in hexadecimal."""
    digest = sha256()
    for folder in _SOURCES:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".hpp", ".cpp", ".in", ".txt"):
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True)


def _runs(*command: str | Path) -> bool:
    """Whether a command succeeds; its output is dropped."""
    done = subprocess.run([str(word) for word in command], check=False, capture_output=True)
    return done.returncode == 0
