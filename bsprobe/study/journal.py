"""The journal of a study: every finished training on disk the moment it ends.

What an unfinished training had reached is in its checkpoint, beside the journal.
"""

from dataclasses import dataclass
from pathlib import Path

from bsprobe.records.runs import DeviceInfo, Environment
from bsprobe.storage.folders import STUDY_JOURNAL
from bsprobe.storage.jsonlines import JsonLines, parse_lines
from bsprobe.study.records import SCHEMA_VERSION, StudySettings, Training


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyHeader:
    """The first line of the journal of a study."""

    schema_version: int
    environment: Environment
    device: DeviceInfo
    settings: StudySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyContents:
    """What the journal of a study holds."""

    header: StudyHeader
    trainings: tuple[Training, ...]
    complete_bytes: int
    """Length of the whole lines; what follows was cut off while it was written."""


class StudyJournal(JsonLines[StudyHeader, Training, StudyContents]):
    """The open journal of a study."""

    NAME = STUDY_JOURNAL

    @classmethod
    def parse(cls, path: Path, data: bytes) -> StudyContents | None:
        """What the bytes of a journal say, None without a whole first line."""
        parsed = parse_lines(path, data, header=StudyHeader, entry=Training, version=SCHEMA_VERSION)
        if parsed is None:
            return None
        header, trainings, complete_bytes = parsed
        return StudyContents(header=header, trainings=trainings, complete_bytes=complete_bytes)
