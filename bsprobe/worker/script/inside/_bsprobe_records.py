"""Records of a process: one JSON object a line, in a file of its own."""

from __future__ import annotations

import contextlib
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Records:
    """The file of this process; forked children write files of their own.

    The file is opened for each line: a program may close descriptors that it does not know, and a
    kept number would then be a file of the program.

    Args:
        folder: An existing folder.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._process = 0  # which has opened its file
        self._telling = 0  # which has written more than the first line
        self._path = ""
        self._opening = b""

    def begin(self) -> None:
        """Write that PyTorch is being imported, which may take long."""
        if not _is_child_of_multiprocessing():
            self._append(_line({"kind": "importing"}))

    def open(self, **facts: Any) -> None:
        """Write the line on PyTorch; a child of multiprocessing writes it with its next one.

        Most such children load data, and they write nothing.
        """
        self._opening = _line({"kind": "torch", **facts})
        if not _is_child_of_multiprocessing():
            self._append(self._opening if self._process == os.getpid() else b"")

    def write(self, kind: str, **facts: Any) -> None:
        """Write a line."""
        self._telling = os.getpid()
        self._append(_line({"kind": kind, **facts}))

    @property
    def has_more(self) -> bool:
        """True if this process, not its parent, has written more than the first line."""
        return self._telling == os.getpid()

    def _append(self, line: bytes) -> None:
        if self._process != os.getpid():
            self._process = os.getpid()
            name = f"{self._process}-{_start_ticks()}.jsonl"
            self._path = os.path.join(self._folder, name)
            line = self._opening + line
        with contextlib.suppress(OSError):  # a full disk is not the program's failure
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.write(file, line)  # one call: a line is whole, or is not there
            finally:
                os.close(file)


def _is_child_of_multiprocessing() -> bool:
    process: Any = sys.modules.get("multiprocessing.process")
    if process is None:
        return False
    # A spawned child has this attribute while it imports the main module, and no parent yet.
    is_preparing = hasattr(process.current_process(), "_inheriting")
    return is_preparing or process.parent_process() is not None


def _line(record: dict[str, Any]) -> bytes:
    import json

    return json.dumps(record).encode() + b"\n"


def _start_ticks() -> str:
    """Field 22 of proc(5)'s stat: with it a process ID that is used again is another name."""
    with open("/proc/self/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[19].decode()
