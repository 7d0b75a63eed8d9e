"""Folders of results: their names, creation and resumption."""

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import DeviceError, FileError, UsageError
from bsprobe.records.printable import shell_word
from bsprobe.records.runs import DeviceInfo, Settings
from bsprobe.records.trials import Source
from bsprobe.records.units import format_bytes
from bsprobe.records.variants import Variant, labels
from bsprobe.storage.files import file_errors, in_use, try_lock
from bsprobe.storage.journal import NAME as JOURNAL
from bsprobe.storage.runfile import NAME as RUN

T = TypeVar("T")
STUDY_JOURNAL = "study-journal.jsonl"
STUDY = "study.json"
REPORT = "report.md"
"""The last file that is written to a folder of results."""
REPORTS = Path("reports")
"""The parent of result folders if `--out` is not given."""
_MOST_NUMBERED = 1000
_MOST_CHARACTERS = 200
"""The longest name of a folder; the file systems of Linux and macOS allow 255 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of results that can be resumed."""

    command: str
    """The subcommand that makes the results."""
    journal: str
    """The file that exists once the command has begun."""
    result: str
    """The file that exists once the command has finished."""


RUNS: Final = Kind(command="run", journal=JOURNAL, result=RUN)
STUDIES: Final = Kind(command="study", journal=STUDY_JOURNAL, result=STUDY)
_JOURNALS = {JOURNAL, STUDY_JOURNAL}
_RESULTS = {RUN, STUDY}


def run_name(device: DeviceInfo, settings: Settings) -> str:
    """Make the name of a run's folder: `rtx-4090-deeplabv2-resnet101-512x1024`, `cpu-train.py`.

    A prediction begins with `predicted-`, and a memory limit follows the device.
    """
    models = dict.fromkeys(variant.model for variant in settings.variants)
    sizes = dict.fromkeys(variant.inputs for variant in settings.variants if variant.inputs)
    name = "cpu" if device.kind is DeviceKind.CPU else re.sub(r"NVIDIA|GeForce", "", device.name)
    if device.limit_bytes is not None:
        name += "-" + format_bytes(device.limit_bytes).replace(" ", "")
    marks = [Source.PREDICTED] if device.source is Source.PREDICTED else []
    together = [f"{settings.processes}-processes"] if settings.processes > 1 else []
    return slug("-".join([*marks, name, *together, *models, *sizes]))


def explanation_name(device: DeviceInfo, variant: Variant) -> str:
    """Make the name of an explanation's folder.

    For example: `explain-rtx-3060-12gb-deeplabv2-resnet101-512x1024-fp32-batch`.
    """
    name = labels([variant])[variant]
    limit = "" if device.limit_bytes is None else format_bytes(device.limit_bytes)
    parts = (
        "explain",
        re.sub(r"NVIDIA|GeForce", "", device.name),
        limit.replace(" ", ""),
        variant.model,
        variant.inputs,
        name,
    )
    return slug("-".join(str(part) for part in parts if part))


def new_folder(base: Path, name: str) -> Path:
    """Create a new folder: NAME, or NAME-2, NAME-3 ... if that exists.

    Raises:
        FileError: The folder cannot be created.
    """
    for number in range(1, _MOST_NUMBERED):
        folder = base / (name if number == 1 else f"{name}-{number}")
        with file_errors(folder):
            try:
                folder.mkdir(parents=True)
            except FileExistsError:  # possibly created by another process just now
                if not base.is_dir():
                    raise
            else:
                return folder
    raise FileError(f"{base} holds {_MOST_NUMBERED} runs named {name}", hint="give --out")


@contextmanager
def reserved(folder: Path | None) -> Iterator[None]:
    """Create the requested folder, and keep other commands out of it while this one works.

    Args:
        folder: The folder, which may exist if it is empty; None if none was requested.

    Raises:
        FileError: The path is not an empty folder, cannot be created, or another command uses it.
    """
    if folder is None:
        yield
        return
    require_empty(folder)
    with file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield  # a folder cannot be opened there
        return
    with file_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not try_lock(descriptor):
            raise in_use(folder)
        require_empty(folder)  # another command may have ended in between
        yield
    finally:
        os.close(descriptor)


def require_empty(folder: Path) -> None:
    """Check that a folder for results is empty or can be created; nothing is created.

    Raises:
        FileError: The path is not an empty folder, or is not writable.
    """
    with file_errors(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FileError(
                f"--out {folder} exists and is not an empty folder", hint=_what_to_do_with(folder)
            )
        there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _what_to_do_with(folder: Path) -> str:
    held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if held & _JOURNALS and not held & _RESULTS:
        return "add --resume to continue the work in it, or give another --out"
    return "give another --out"


def _newest_unfinished(base: Path, kind: Kind) -> Path | None:
    """Return the folder of the newest unfinished results of a kind in another folder, or None."""
    found = [
        path.parent
        for path in base.glob(f"*/{kind.journal}")
        if not (path.parent / kind.result).exists()
    ]
    return max(found, key=lambda folder: (folder / kind.journal).stat().st_mtime, default=None)


def begun(
    folder: Path | None,
    kind: Kind,
    resume: Callable[[Path], T | None],
    require_unfinished: Callable[[Path], None],
) -> tuple[Path, T]:
    """Find unfinished results and open their journal.

    Args:
        folder: The folder; None for the newest unfinished one in `REPORTS`.
        kind: The kind of the results.
        resume: Opens the journal in a folder; returns None if the journal has no complete header.
        require_unfinished: Raises an error if the results in a folder are finished.

    Returns:
        The folder, and the result of `resume`.

    Raises:
        UsageError: The folder has no unfinished results of that kind.
    """
    folder = folder or _newest_unfinished(REPORTS, kind)
    if folder is None:
        raise UsageError(
            f"there is no unfinished {kind.command} below {REPORTS}/",
            hint="name its folder with --out",
        )
    with file_errors(folder):
        is_begun = (folder / kind.journal).exists()
    if not is_begun:
        raise _nothing_begun(folder, kind)
    if (folder / kind.result).exists():
        require_unfinished(folder)
    resumed = resume(folder)
    if resumed is None:
        raise UsageError(
            f"--resume: the {kind.command} in {folder} stopped before its journal had a header; "
            "the journal was removed",
            hint="start it again without --resume",
        )
    return folder, resumed


def _nothing_begun(folder: Path, kind: Kind) -> UsageError:
    """Make the error for a folder without a journal of a kind."""
    other = STUDIES if kind is RUNS else RUNS
    if (folder / other.journal).exists():
        return UsageError(
            f"--resume: {folder} holds a {other.command}, not a {kind.command}",
            hint=resuming(folder, other),
        )
    newest = _newest_unfinished(REPORTS, kind)
    anew = f"start a new {kind.command} without --resume"
    what = f"holds no {kind.command} to continue" if folder.exists() else "does not exist"
    return UsageError(
        f"--resume: {folder} {what}",
        hint=anew if newest is None else f"continue with {resuming(newest, kind)}, or {anew}",
    )


def resuming(folder: Path, kind: Kind) -> str:
    """Return the command that resumes the work in a folder."""
    return f"bsprobe {kind.command} --resume --out {shell_word(str(folder))}"


@contextmanager
def withdrawn_if_refused(folder: Path) -> Iterator[None]:
    """Remove a journal that has only a header if the command is refused.

    The corrected command then finds the folder empty.
    """
    try:
        yield
    except (UsageError, DeviceError):
        with suppress(OSError):
            for path in map(folder.joinpath, _JOURNALS):
                if path.is_file() and len(path.read_bytes().splitlines()) <= 1:
                    path.unlink()
        raise


def slug(text: str) -> str:
    """Make a folder name: lower-case letters, digits and dots, separated by hyphens.

    A long one is cut off.
    """
    return re.sub(r"[^a-z0-9.]+", "-", text.lower())[:_MOST_CHARACTERS].strip("-.")
