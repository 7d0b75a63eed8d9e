"""The journal of a run, which holds every finished trial.

A journal is a file of JSON lines: a header with the schema version, the environment, the device
and the settings, then one trial per line. Each line is flushed to disk before the next trial
starts.
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
    """The contents of a journal."""

    header: Header
    trials: tuple[Trial, ...]
    complete_bytes: int
    """The length of the complete lines; the rest is a truncated line."""


class Journal(JsonLines[Header, Trial, Contents]):
    """The journal of a run."""

    NAME = NAME

    @classmethod
    def parse(cls, path: Path, data: bytes) -> Contents | None:
        """Parse the bytes of a journal; None without a complete header.

        Raises:
            FileError: A complete line is damaged, or the journal has another version.
        """
        parsed = parse_lines(
            path, data, header=Header, entry=Trial, version=SCHEMA_VERSION, check=check_figures
        )
        if parsed is None:
            return None
        header, trials, complete_bytes = parsed
        return Contents(header=header, trials=trials, complete_bytes=complete_bytes)


def read_journal(folder: Path) -> Contents:
    """Read a journal without changing it; a truncated last line is ignored.

    Raises:
        FileError: The journal is missing, has no complete header, or a complete line is damaged.
    """
    return Journal.read(folder)
