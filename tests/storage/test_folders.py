"""Tests of the folders of results."""

import sys
from pathlib import Path

import pytest

from bsprobe.records.errors import FileError
from bsprobe.storage.folders import new_folder, reserved, slug


def test_a_new_folder_has_the_first_unused_name(tmp_path: Path) -> None:
    base = tmp_path / "reports"
    assert new_folder(base, "cpu") == base / "cpu"
    (base / "cpu-2").touch()
    (base / "cpu-3").symlink_to("absent")
    assert new_folder(base, "cpu") == base / "cpu-4"


def test_a_folder_that_another_process_has_just_made_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu").mkdir()
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert new_folder(tmp_path, "cpu") == tmp_path / "cpu-2"


@pytest.mark.parametrize("inside", [".", "deeper"])
def test_a_file_in_the_place_of_the_reports_is_a_file_error(tmp_path: Path, inside: str) -> None:
    (tmp_path / "reports").touch()
    with pytest.raises(FileError, match="Not a directory"):
        new_folder(tmp_path / "reports" / inside, "cpu")


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be locked there")
def test_a_folder_is_reserved_for_one_command_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    with reserved(folder), pytest.raises(FileError, match="another bsprobe command is writing"):
        reserved(folder).__enter__()
    with reserved(folder):
        (folder / "run.json").touch()
    with pytest.raises(FileError, match="is not an empty folder"):
        reserved(folder).__enter__()


def test_a_long_name_of_a_folder_is_cut_off(tmp_path: Path) -> None:
    models = "-".join(f"package.module{number}:factory" for number in range(40))
    first = new_folder(tmp_path, slug(models))
    assert first.name.startswith("package.module0-factory-package.module1")
    assert 190 < len(first.name) <= 200
    assert new_folder(tmp_path, slug(models)).name == f"{first.name}-2"
