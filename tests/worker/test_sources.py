"""The user's own files, without those of Python, of packages and of bsprobe."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from bsprobe.worker.sources import imported_files


def module_at(path: Path) -> ModuleType:
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    return module


def test_only_the_users_files_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, installed = tmp_path / "mine.py", tmp_path / "site-packages" / "theirs.py"
    monkeypatch.setitem(sys.modules, "mine_of_this_test", module_at(own))
    monkeypatch.setitem(sys.modules, "theirs_of_this_test", module_at(installed))

    found = imported_files()

    assert str(own) in found
    assert str(Path(__file__).resolve()) in found
    assert str(installed) not in found
    names = {Path(each).name for each in found}
    assert names.isdisjoint({"pathlib.py", "sources.py"})
