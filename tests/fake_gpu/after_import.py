"""Calls a function of ours right after a module was imported."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class _Following(Loader):
    """Loads a module as its own loader does, then has another module changed by `install`."""

    def __init__(self, loader: Loader, follower: str) -> None:
        self._loader = loader
        self._follower = follower

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        importlib.import_module(self._follower).install(module)


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
            spec.loader = _Following(spec.loader, self._followers[fullname])
        return spec


def install(followers: Mapping[str, str]) -> None:
    """Have modules followed.

    Args:
        followers: For the name of a module, that of one of ours: its `install` is called with it.
    """
    sys.meta_path.insert(0, _Finder(followers))
