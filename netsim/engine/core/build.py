"""Builds the core when the package is built: a hook of hatchling, which calls CMake.

Without a compiler the package still installs: netsim runs on simpy, and moe places where nothing has to be searched.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SOURCE = Path("netsim/engine/core")
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
        root = Path(self.root)
        build = root / "build" / f"core-{sysconfig.get_config_var('SOABI')}"
        try:
            source, python = root / _SOURCE, f"-DPython_EXECUTABLE={sys.executable}"
            _run("cmake", "--fresh", "-S", source, "-B", build, "-G", "Ninja", python)
        except (OSError, subprocess.CalledProcessError) as error:
            self.app.display_warning(
                f"the core is not compiled ({error}); netsim runs on simpy alone, and moe without most of its solvers"
            )
            return
        _run("cmake", "--build", build)
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        for module, folder in _MODULES.items():
            built, place = build / f"{module}{suffix}", Path(folder) / f"{module}{suffix}"
            if version == "editable":
                (root / place).unlink(missing_ok=True)
                (root / place).write_bytes(built.read_bytes())
            else:
                build_data["force_include"][str(built)] = str(place)
        if version != "editable":
            build_data["pure_python"], build_data["infer_tag"] = False, True


def _run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True)
