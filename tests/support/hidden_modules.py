"""Modules hidden from a program and all its child processes."""

import os
from pathlib import Path

import pytest

_SITECUSTOMIZE = """
import os
from importlib.machinery import PathFinder

find = PathFinder.find_spec


class Find:  # an object: pytest stores it in a class, where a function becomes a method
    def __call__(self, name, path=None, target=None):
        return None if name in os.environ["HIDDEN"].split(",") else find(name, path, target)


PathFinder.find_spec = Find()
"""


def hide(*modules: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the imports of these modules fail in Python processes started from now on."""
    (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE, encoding="utf-8")
    inherited = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), inherited))))
    monkeypatch.setenv("HIDDEN", ",".join(modules))
