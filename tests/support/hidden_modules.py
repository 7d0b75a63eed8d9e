"""Modules as good as absent, in a program and in all that it starts."""

import os
from pathlib import Path

import pytest

_SITECUSTOMIZE = """
import os
from importlib.machinery import PathFinder

find = PathFinder.find_spec


class Find:  # an object, for pytest keeps it in a class, where a function would become a method
    def __call__(self, name, path=None, target=None):
        return None if name in os.environ["HIDDEN"].split(",") else find(name, path, target)


PathFinder.find_spec = Find()
"""


def hide(*modules: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the Python processes that are started from now on find none of these modules."""
    (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE, encoding="utf-8")
    inherited = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), inherited))))
    monkeypatch.setenv("HIDDEN", ",".join(modules))
