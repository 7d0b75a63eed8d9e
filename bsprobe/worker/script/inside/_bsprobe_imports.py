"""Functions that run before and after the import of a module, without importing it."""

from __future__ import annotations

import contextlib
import sys

TYPE_CHECKING = False  # `typing` takes milliseconds to import, in each process of the command
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


class Awaited:
    """A finder on `sys.meta_path` for one module, which the other finders find.

    Args:
        name: The module.
        before: Called with its spec before it is executed.
        after: Called with the module once it is executed.
        failed: Called if it cannot be executed; then its next import is awaited.
    """

    def __init__(
        self,
        name: str,
        before: Callable[[ModuleSpec], object],
        after: Callable[[ModuleType], object],
        failed: Callable[[], object],
    ) -> None:
        self._name = name
        self._before = before
        self._after = after
        self._failed = failed
        self._is_asking = False
        sys.meta_path.insert(0, self)

    def come_first(self) -> None:
        """Move to the front, if the module is still awaited: not every finder asks the others."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            sys.meta_path.insert(0, self)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that another finder has found for the module.

        Args:
            name: The module that is imported.
            path: The paths of its package, or None.
            target: The module that is imported again, or None.
        """
        if name != self._name or self._is_asking:
            return None
        self._is_asking = True  # some finders ask all finders, and so would ask this one again
        try:
            spec = self._from_others(name, path, target)
        finally:
            self._is_asking = False
        with contextlib.suppress(Exception):  # a loader that takes no attributes: not awaited
            self._prepare(spec)
        return spec

    def _from_others(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is not self and find is not None:
                spec: ModuleSpec | None = find(name, path, target)
                if spec is not None:
                    return spec
        return None

    def _prepare(self, spec: ModuleSpec | None) -> None:
        """Put a function before the loader's own; it is gone when the module is executed."""
        if spec is None or spec.loader is None:
            return
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with contextlib.suppress(AttributeError):
                del loader.exec_module
            with contextlib.suppress(Exception):  # the import is the user's
                self._before(spec)
            try:
                execute(module)
            except BaseException:
                with contextlib.suppress(Exception):
                    self._failed()
                raise
            with contextlib.suppress(ValueError):
                sys.meta_path.remove(self)
            with contextlib.suppress(Exception):
                self._after(module)

        loader.exec_module = exec_module
