"""Files that a command writes into the working directory."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_MOST_FILES: Final = 20_000
"""Larger folders are looked at in part."""
_PASSED_OVER: Final = frozenset({".git", "__pycache__", ".venv", "venv", "node_modules"})
"""Folders that programs and tools write to without being asked."""

Stamp = tuple[int, int]
"""The time of the last change in nanoseconds, and the size in bytes."""


class WorkingDirectory:
    """The files of a folder at one time.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = {_identity(os.fstat(number)) for number in (1, 2) if _is_open(number)}
        """The outputs of bsprobe itself, such as a redirected one."""
        self._before = dict(self._files())

    def written(self) -> tuple[str, ...]:
        """Return the files that are new or changed since, as relative paths."""
        return tuple(
            sorted(name for name, stamp in self._files() if self._before.get(name) != stamp)
        )

    def _files(self) -> Iterator[tuple[str, Stamp]]:
        count = 0
        for folder, folders, names in os.walk(self._folder):
            folders[:] = sorted(set(folders) - _PASSED_OVER)
            for name in sorted(names):
                path = Path(folder, name)
                with suppress(OSError):
                    stat = path.lstat()
                    if _identity(stat) in self._own:
                        continue
                    yield str(path.relative_to(self._folder)), (stat.st_mtime_ns, stat.st_size)
                count += 1
                if count >= _MOST_FILES:
                    return


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _is_open(descriptor: int) -> bool:
    with suppress(OSError):
        os.fstat(descriptor)
        return True
    return False
