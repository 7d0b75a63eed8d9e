"""The journal of a run, which holds every finished trial.

A journal is a file of JSON lines: a header with the schema version, the environment, the device
and the settings, then one trial per line. Each line is flushed to disk before the next trial
starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bsprobe.analysis.course import counts, serves
from bsprobe.records.runs import SCHEMA_VERSION, DeviceInfo, Environment, Settings
from bsprobe.records.trials import Purpose, Trial, TrialSpec
from bsprobe.storage.checks import check_settings, check_trials
from bsprobe.storage.codec import MalformedError
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
            path, data, header=Header, entry=Trial, version=SCHEMA_VERSION, check=_check
        )
        if parsed is None:
            return None
        header, trials, complete_bytes = parsed
        return Contents(header=header, trials=trials, complete_bytes=complete_bytes)


def _check(header: Header, trials: Sequence[Trial], places: Sequence[str]) -> None:
    check_settings(header.settings, header.device, place="line 1: $")
    check_trials(trials, header.settings, header.device, places=places)
    _check_repetitions(trials, header.device, places)


def _check_repetitions(trials: Sequence[Trial], device: DeviceInfo, places: Sequence[str]) -> None:
    """Check that no trial was run again although its first record counts.

    A run reuses its trials. It repeats one in a fresh process if its record is of a used process,
    and a resumed run repeats those that do not count (`counts`).
    """
    kept: dict[TrialSpec, list[tuple[str, Trial]]] = {}
    for place, trial in zip(places, trials, strict=True):
        alike = kept.setdefault(replace(trial.spec, measured_steps=1), [])
        may_repeat = trial.fresh_process and trial.purpose not in (Purpose.SEARCH, Purpose.SAFE)
        for earlier, before in alike:
            is_of_used = may_repeat and not before.fresh_process
            if serves(before.spec, trial.spec) and not is_of_used:
                raise MalformedError(
                    f"{place}: batch {trial.spec.batch_size} again, whose result is in {earlier}"
                )
        if counts(trial, device.kind):
            alike.append((place, trial))


def read_journal(folder: Path) -> Contents:
    """Read a journal without changing it; a truncated last line is ignored.

    Raises:
        FileError: The journal is missing, has no complete header, or a complete line is damaged.
    """
    return Journal.read(folder)
