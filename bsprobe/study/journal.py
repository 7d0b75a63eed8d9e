"""The journal of a study: each training is appended when it ends.

The state of an unfinished training is in its checkpoint, in the same folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bsprobe.records.runs import DeviceInfo, Environment
from bsprobe.storage.folders import STUDY_JOURNAL
from bsprobe.storage.jsonlines import JsonLines, parse_lines
from bsprobe.study.checks import check_conditions, check_trainings
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
    """The contents of the journal of a study."""

    header: StudyHeader
    trainings: tuple[Training, ...]
    complete_bytes: int
    """Length of the complete lines in bytes; a line cut off at the end is not included."""


class StudyJournal(JsonLines[StudyHeader, Training, StudyContents]):
    """The open journal of a study."""

    NAME = STUDY_JOURNAL

    @classmethod
    def parse(cls, path: Path, data: bytes) -> StudyContents | None:
        """Parse the bytes of a journal; None without a complete first line."""
        parsed = parse_lines(
            path,
            data,
            header=StudyHeader,
            entry=Training,
            version=SCHEMA_VERSION,
            check=_check,
        )
        if parsed is None:
            return None
        header, trainings, complete_bytes = parsed
        return StudyContents(header=header, trainings=trainings, complete_bytes=complete_bytes)


def _check(header: StudyHeader, trainings: Sequence[Training], places: Sequence[str]) -> None:
    check_conditions(header.settings, header.device, place="line 1: $")
    check_trainings(trainings, header.settings, header.device, places=places)
