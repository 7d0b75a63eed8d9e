"""The user's own files that a process has imported."""

import sys
import sysconfig
from pathlib import Path
from types import ModuleType

_INSTALLED = frozenset({"site-packages", "dist-packages"})
_OF_PYTHON = ("stdlib", "platstdlib", "purelib", "platlib")


def imported_files() -> tuple[str, ...]:
    """Return the files of modules outside Python, installed packages and bsprobe, sorted."""
    others = [Path(sysconfig.get_path(name)).resolve() for name in _OF_PYTHON]
    others.append(Path(__file__).resolve().parents[1])
    modules: list[object] = list(sys.modules.values())  # some programs add other objects
    named = [vars(each).get("__file__") for each in modules if isinstance(each, ModuleType)]
    files = {Path(name).resolve() for name in named if isinstance(name, str)}
    return tuple(
        sorted(
            str(file)
            for file in files
            if _INSTALLED.isdisjoint(file.parts)
            and not any(file.is_relative_to(folder) for folder in others)
        )
    )
