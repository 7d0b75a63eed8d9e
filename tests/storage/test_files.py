"""Tests of atomic writing."""

import errno
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from bsprobe.records.errors import FileError
from bsprobe.storage.files import (
    file_errors,
    partial_name,
    remove_partial_files,
    write_atomically,
    written_whole,
)


def failing(code: int) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fail


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_is_renamed_once_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(b"old")
    seen: list[dict[str, bytes]] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(content(tmp_path)))
    write_atomically(path, b"new")
    ((partial, old), (name, new)) = sorted(seen[0].items())
    assert re.fullmatch(rf"\.run\.json\.{os.getpid()}-[0-9a-f]{{16}}\.partial", partial)
    assert (old, name, new, len(seen)) == (b"new", "run.json", b"old", 1)
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
    assert str(path) in str(refused.value)
    assert "No space left on device" in str(refused.value)
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


def test_a_read_only_folder_is_a_file_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "open", failing(errno.EACCES))
    with pytest.raises(FileError) as refused:
        write_atomically(tmp_path / "run.json", b"new")
    assert str(tmp_path / "run.json") in str(refused.value)
    assert "Permission denied" in str(refused.value)


def test_a_missing_folder_is_a_file_error(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "run.json"
    with pytest.raises(FileError, match="does not exist"):
        write_atomically(path, b"new")


def device(path: Path) -> None:
    """Make a device like /dev/null."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)  # relative, because the path of a socket must be short


IN_THE_WAY: dict[str, Callable[[Path], object]] = {
    "device": device,
    "pipe": os.mkfifo,
    "socket": bound_socket,
    "folder": Path.mkdir,
    "dangling link": lambda path: path.symlink_to("absent"),
    "link to a folder": lambda path: path.symlink_to("."),
    "link to itself": lambda path: path.symlink_to(path.name),
}


@pytest.mark.skipif(sys.platform == "win32", reason="there are no devices and pipes with a path")
@pytest.mark.parametrize("make", IN_THE_WAY.values(), ids=IN_THE_WAY)
def test_a_path_that_is_not_a_regular_file_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.json"
    make(path)
    before = path.lstat()
    with pytest.raises(FileError, match="is not a regular file") as refused:
        write_atomically(path, b"new")
    assert refused.value.hint is not None
    assert list(tmp_path.iterdir()) == [path]
    after = path.lstat()
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a special permission there")
def test_a_link_to_a_file_is_kept_and_the_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "target.json"
    target.write_bytes(b"old")
    first, second = tmp_path / "run.json", tmp_path / "again.json"
    first.symlink_to("elsewhere/target.json")
    second.symlink_to("run.json")
    write_atomically(second, b"new")
    assert (first.readlink(), second.readlink()) == (
        Path("elsewhere/target.json"),
        Path("run.json"),
    )
    assert not target.is_symlink()
    assert content(tmp_path / "elsewhere") == {"target.json": b"new"}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no umask")
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_file_has_the_mode_of_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "run.json", b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run.json").stat().st_mode) == 0o666 & ~mask


def ended_process() -> int:
    """Return the ID of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        return process.pid


@pytest.mark.skipif(sys.platform == "win32", reason="processes are not checked there")
def test_partial_files_of_ended_processes_are_removed_and_those_of_living_ones_kept(
    tmp_path: Path,
) -> None:
    ended = ended_process()
    dead = partial_name("run.json", ended)
    kept = {
        partial_name("run.json", os.getpid()),
        partial_name("run.json", os.getppid()),
        partial_name("journal.jsonl", ended),
        ".run.json.partial",
        f"run.json.{ended}-0123456789abcdef.partial",
        f".run.json.{ended}-.partial",
    }
    for name in (dead, *kept):
        (tmp_path / name).touch()
    write_atomically(tmp_path / "run.json", b"new")
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", *kept}
    remove_partial_files(tmp_path)
    assert partial_name("journal.jsonl", ended)[:20] not in str(list(tmp_path.iterdir()))
    assert len(list(tmp_path.iterdir())) == len(kept)


def test_two_simultaneous_writers_have_different_temporary_names(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with written_whole(path) as first, written_whole(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert content(tmp_path) == {"run.json": b"first"}


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127, "n" * 250 + ".json"])
def test_a_file_with_a_name_of_255_bytes_is_written(tmp_path: Path, name: str) -> None:
    (tmp_path / partial_name(name, ended_process())).touch()
    write_atomically(tmp_path / name, b"new")
    assert content(tmp_path) == {name: b"new"}


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (FileExistsError(17, "File exists"), "exists", "--resume"),
        (FileNotFoundError(2, "No such file"), "does not exist", "folder of a run"),
        (PermissionError(13, "Permission denied"), ": Permission denied", "permissions"),
        (OSError(28, "No space left on device"), ": No space left on device", "disk"),
        (OSError("no number"), ": no number", "disk"),
    ],
)
def test_each_system_error_becomes_a_message_and_a_hint(
    error: OSError, message: str, hint: str
) -> None:
    with pytest.raises(FileError) as refused, file_errors(Path("run.json")):
        raise error
    assert str(refused.value).startswith("run.json")
    assert message in str(refused.value)
    assert refused.value.hint is not None
    assert hint in refused.value.hint
    assert refused.value.__cause__ is error


def test_other_errors_pass_through() -> None:
    with pytest.raises(ValueError, match="another"), file_errors(Path("run.json")):
        raise ValueError("another")
