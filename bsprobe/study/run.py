"""Running a study: open the device, the folder and the journal, run the trainings, save."""

from dataclasses import dataclass, replace
from pathlib import Path

from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import InterruptedRunError, UsageError
from bsprobe.records.printable import shell_word
from bsprobe.records.runs import DeviceInfo, DeviceRequest
from bsprobe.storage.folders import (
    REPORT,
    REPORTS,
    STUDIES,
    begun,
    new_folder,
    reserved,
    resuming,
    slug,
    withdrawn_if_refused,
)
from bsprobe.study.conduct import Listener, Studying
from bsprobe.study.journal import StudyContents, StudyHeader, StudyJournal
from bsprobe.study.plan import counts
from bsprobe.study.records import SCHEMA_VERSION, Study, StudySettings
from bsprobe.study.runner import StudyRunner
from bsprobe.study.studyfile import load_study
from bsprobe.worker.environment import describe_environment
from bsprobe.worker.protocol import Ready
from bsprobe.worker.resuming import require_same_device, require_same_versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The start of a study, new or resumed."""

    settings: StudySettings
    command: str
    """The command line, for the report."""
    folder: Path | None
    """A new or empty folder; None for one below `REPORTS`, named after the study."""
    resumed: tuple[StudyJournal, StudyContents] | None = None
    """The open journal of a resumed study, and its contents."""

    @property
    def request(self) -> DeviceRequest:
        """The device to open; a resumed study keeps its memory limit."""
        if self.resumed is None:
            return self.settings.device
        limit = self.resumed[1].header.device.limit_bytes
        return replace(self.settings.device, memory_limit_bytes=limit)


def run(start: Start, *, listener: Listener) -> tuple[Study, Path]:
    """Open the device and run the trainings. The journal is kept if the study is stopped.

    Args:
        start: The settings and the start of the study.
        listener: Notified of the progress.

    Returns:
        The study, which is not yet saved, and its folder.

    Raises:
        FileError: The folder cannot be used, or the journal was made on another device or with
            other versions.
        DeviceError: The device is not available, or a training was refused.
        InterruptedRunError: The user interrupted the study.
    """
    settings = start.settings
    with (
        reserved(None if start.resumed else start.folder),
        StudyRunner(
            start.request,
            variant=settings.variant,
            data=settings.data,
            timeout=settings.training_timeout_seconds,
        ) as trainer,
    ):
        folder, log, contents = _opened(start, trainer.ready)
        try:
            with withdrawn_if_refused(folder), log:
                made = Studying(
                    settings,
                    trainer=trainer,
                    device=contents.header.device,
                    journal=log,
                    folder=folder,
                    listener=listener,
                    known=contents.trainings,
                ).run(contents.header.environment)
        except KeyboardInterrupt:
            raise InterruptedRunError(
                "interrupted; finished trainings and the last checkpoint are kept",
                hint=f"go on with: {resuming(folder, STUDIES)}",
            ) from None
    return made, folder


def _opened(start: Start, ready: Ready) -> tuple[Path, StudyJournal, StudyContents]:
    """The folder and the journal of a study, new or resumed."""
    device = ready.device
    folder = start.folder or new_folder(REPORTS, study_name(device, start.settings))
    if start.resumed is not None:
        log, contents = start.resumed
        what = f"study in {folder}"
        require_same_device(contents.header.device, device, what)
        require_same_versions(contents.header.environment, ready, what)
        return folder, log, contents
    header = StudyHeader(
        schema_version=SCHEMA_VERSION,
        environment=describe_environment(ready, start.command),
        device=device,
        settings=start.settings,
    )
    empty = StudyContents(header=header, trainings=(), complete_bytes=0)
    return folder, StudyJournal.create(folder, header), empty


def begun_study(folder: Path | None) -> tuple[Path, StudyJournal, StudyContents]:
    """Open an unfinished study.

    Args:
        folder: The folder of the study; None for the newest unfinished one below `REPORTS`.

    Returns:
        The folder, the open journal, and its contents.

    Raises:
        UsageError: There is no study in the folder, or it is finished.
        FileError: Another process is writing to the journal, or it is damaged.
    """
    found, (journal, contents) = begun(folder, STUDIES, StudyJournal.resume, _require_unfinished)
    return found, journal, contents


def _require_unfinished(folder: Path) -> None:
    """Refuse a study with a report and without trainings to repeat."""
    study, report = load_study(folder), folder / REPORT
    if report.exists() and all(counts(each, study.device.kind) for each in study.trainings):
        raise UsageError(
            f"--resume: the study in {folder} is finished",
            hint=f"read {shell_word(str(report))}, or start a new study with another --out",
        )


def study_name(device: DeviceInfo, settings: StudySettings) -> str:
    """The name of a study's folder: `study-cpu-deeplabv2-mini-64x128`."""
    name = "cpu" if device.kind is DeviceKind.CPU else device.name
    return slug(f"study-{name}-{settings.variant.model}-{settings.variant.resolution}")
