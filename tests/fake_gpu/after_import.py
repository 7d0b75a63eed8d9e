"""Calls a function right after a module was imported."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class _Finder(MetaPathFinder):
    def __init__(self, followers: Mapping[str, str]) -> None:
        self._followers = followers

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname not in self._followers:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            load, follower = spec.loader.exec_module, self._followers[fullname]

            def exec_module(module: ModuleType) -> None:
                load(module)
                importlib.import_module(follower).install(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign] # of this one
        return spec


def install(followers: Mapping[str, str]) -> None:
    """Register, by module name, the modules whose `install` is called with an imported module."""
    sys.meta_path.insert(0, _Finder(followers))
