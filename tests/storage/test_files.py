"""Files written whole or not at all."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from bsprobe.records.errors import FileError
from bsprobe.storage.files import file_errors, write_atomically


def failing(code: int) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fail


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_gets_its_name_once_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(b"old")
    seen: list[dict[str, bytes]] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(content(tmp_path)))
    write_atomically(path, b"new")
    assert seen == [{"run.json": b"old", ".run.json.partial": b"new"}]
    assert content(tmp_path) == {"run.json": b"new"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(b"old")
    owner = {"fsync": os, "replace": Path}[step]
    monkeypatch.setattr(owner, step, failing(errno.ENOSPC))
    with pytest.raises(FileError) as refused:
        write_atomically(path, b"new")
    assert str(refused.value) == f"{path}: No space left on device"
    assert refused.value.hint is not None
    assert content(tmp_path) == {"run.json": b"old"}


def test_an_interruption_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(b"old")

    def interrupt(_: int) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert content(tmp_path) == {"run.json": b"old"}


def test_a_read_only_folder_is_a_clear_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "open", failing(errno.EACCES))
    with pytest.raises(FileError) as refused:
        write_atomically(tmp_path / "run.json", b"new")
    assert str(refused.value) == f"{tmp_path / 'run.json'}: Permission denied"


def test_a_missing_folder_is_a_clear_refusal(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "run.json"
    with pytest.raises(FileError, match="does not exist"):
        write_atomically(path, b"new")


def test_a_folder_in_the_way_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.mkdir()
    with pytest.raises(FileError):
        write_atomically(path, b"new")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (FileExistsError(17, "File exists"), "exists already", "--resume"),
        (FileNotFoundError(2, "No such file"), "does not exist", "folder of a run"),
        (PermissionError(13, "Permission denied"), ": Permission denied", "permissions"),
        (OSError(28, "No space left on device"), ": No space left on device", "disk"),
        (OSError("no number"), ": no number", "disk"),
    ],
)
def test_each_complaint_of_the_system_becomes_a_line_and_a_hint(
    error: OSError, message: str, hint: str
) -> None:
    with pytest.raises(FileError) as refused, file_errors(Path("run.json")):
        raise error
    assert str(refused.value).startswith("run.json")
    assert message in str(refused.value)
    assert refused.value.hint is not None
    assert hint in refused.value.hint
    assert refused.value.__cause__ is error


def test_what_is_no_complaint_of_the_system_passes_through() -> None:
    with pytest.raises(ValueError, match="ours"), file_errors(Path("run.json")):
        raise ValueError("ours")
