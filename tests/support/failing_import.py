"""A package whose import fails."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest


class _Finder:
    def __init__(self, name: str, error: Exception) -> None:
        self._name, self._error = name, error

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if name == self._name:
            raise self._error
        return None


def failing_import(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    """Make `import NAME` raise an error, like a broken package."""
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [_Finder(name, error), *sys.meta_path])
