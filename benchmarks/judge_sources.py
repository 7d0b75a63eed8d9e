"""Recordings collected from folders and archives, for `judge.py`."""

import filecmp
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks.truth_records import Machine, load_machine
from bsprobe.records.errors import FileError
from bsprobe.storage.files import file_errors

_MACHINE: Final = "machine.json"
_PARTS: Final = ("trials", "boundaries")
_GIVE: Final = "give a folder or a tar archive that benchmarks/record_truth.py wrote"


def gather(sources: Sequence[Path], staging: Path) -> dict[Path, Machine]:
    """Copy the folders of GPUs from folders and archives; return the copies.

    Several sources may hold parts of the same GPU's folder, or the same files.

    Args:
        sources: Folders of GPUs, folders of such folders, tar archives of either.
        staging: An empty folder.

    Raises:
        FileError: A source is missing, damaged or without recordings, or two sources differ.
    """
    target = staging / "gathered"
    for number, source in enumerate(sources):
        if not source.exists():
            raise FileError(f"{source} does not exist", hint=_GIVE)
        folder = source if source.is_dir() else _unpacked(source, staging / f"archive-{number}")
        found = list(_gpu_folders(folder))
        if not found:
            raise FileError(
                f"{source} holds no recordings: there is no {_MACHINE} in it",
                hint=_GIVE,
            )
        for each in found:
            _merge(each, target / each.resolve().name)
    machines = {folder: load_machine(folder) for folder in sorted(target.iterdir())}
    for folder, machine in machines.items():
        if machine is None:
            raise FileError(
                f"the recordings of {folder.name} have no {_MACHINE}",
                hint="give all parts of the archive together",
            )
    return {folder: machine for folder, machine in machines.items() if machine is not None}


def _gpu_folders(folder: Path) -> Iterator[Path]:
    for each in (folder, *sorted(folder.iterdir())):
        if (each / _MACHINE).exists() or any((each / part).is_dir() for part in _PARTS):
            yield each
            if each == folder:
                return


def _unpacked(archive: Path, target: Path) -> Path:
    """Unpack an archive; members cannot be written outside the target."""
    target.mkdir()
    try:
        with file_errors(archive), tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise FileError(
            f"{archive} is damaged or not an archive of recordings: {error}",
            hint=_GIVE,
        ) from error
    return target


def _merge(source: Path, target: Path) -> None:
    files = [source / _MACHINE] if (source / _MACHINE).exists() else []
    files += [path for part in _PARTS for path in (source / part).rglob("*") if path.is_file()]
    for path in files:
        copy = target / path.relative_to(source)
        if not copy.exists():
            with file_errors(path):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
        elif not (
            _is_same_machine(source, target)
            if path.name == _MACHINE
            else filecmp.cmp(path, copy, shallow=False)
        ):
            raise FileError(
                f"{target.name}/{path.relative_to(source)} differs between two sources",
                hint="compare the two recordings one after the other",
            )


def _is_same_machine(one: Path, other: Path) -> bool:
    """True if two sessions have the same GPU and the same versions."""
    return _identity(load_machine(one)) == _identity(load_machine(other))


def _identity(machine: Machine | None) -> tuple[str | None, ...]:
    if machine is None:
        return ()
    environment = machine.environment
    return (
        machine.device.name,
        environment.torch,
        environment.torchvision,
        environment.cuda,
        environment.cudnn,
    )
