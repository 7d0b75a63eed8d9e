"""Every finished trial on disk the moment it ends, so that nothing measured is ever lost.

A journal is JSON lines: a header with the schema version, the environment, the device and the
settings, then one trial a line, each flushed to the disk before the next trial starts.
"""

from dataclasses import dataclass
from pathlib import Path

from bsprobe.records.runs import SCHEMA_VERSION, DeviceInfo, Environment, Settings
from bsprobe.records.trials import Trial
from bsprobe.storage.checks import check_figures
from bsprobe.storage.jsonlines import JsonLines, parse_lines

NAME = "journal.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first line of a journal."""

    schema_version: int
    environment: Environment
    device: DeviceInfo
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a journal holds."""

    header: Header
    trials: tuple[Trial, ...]
    complete_bytes: int
    """Length of the whole lines; what follows was cut off while it was written."""


class Journal(JsonLines[Header, Trial, Contents]):
    """The journal of a run."""

    NAME = NAME

    @classmethod
    def parse(cls, path: Path, data: bytes) -> Contents | None:
        """What the bytes of a journal say, None without a whole first line."""
        parsed = parse_lines(
            path, data, header=Header, entry=Trial, version=SCHEMA_VERSION, check=check_figures
        )
        if parsed is None:
            return None
        header, trials, complete_bytes = parsed
        return Contents(header=header, trials=trials, complete_bytes=complete_bytes)


def read_journal(folder: Path) -> Contents:
    """Read a journal without touching it; a last line that was cut off is left out.

    Raises:
        FileError: There is none, or it is damaged before its last line.
    """
    return Journal.read(folder)
