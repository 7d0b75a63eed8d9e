"""Runs and studies check the conditions of their journals before they are resumed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest

from bsprobe.engine.run import Start, rehearse, run
from bsprobe.records.errors import FileError
from bsprobe.records.runs import DeviceInfo
from bsprobe.records.units import GIB
from bsprobe.storage.journal import Journal
from bsprobe.study import run as study_run
from bsprobe.study.journal import StudyJournal
from bsprobe.worker.protocol import Ready
from tests.support.builders import DEVICE, ENVIRONMENT, Silence, header, settings
from tests.support.study_builders import study_header, study_settings

READY = Ready(
    device=DEVICE,
    torch="2.14.1",
    cuda=ENVIRONMENT.cuda,
    cudnn=ENVIRONMENT.cudnn,
    cpu_threads=ENVIRONMENT.cpu_threads,
)


class Opened:
    """A runner whose device is open, and that runs no trial."""

    def __init__(self, ready: Ready) -> None:
        self.ready = ready

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


def resume_run(folder: Path, ready: Ready) -> None:
    run(_begun(folder, ready), listener=Silence(), warn=pytest.fail)


def rehearse_run(folder: Path, ready: Ready) -> None:
    rehearse(_begun(folder, ready))


def _begun(folder: Path, ready: Ready) -> Start:
    with Journal.create(folder, header()):
        pass
    opened: Any = Opened(ready)
    return Start(
        settings=settings(),
        command="",
        folder=folder,
        resumed=Journal.resume(folder),
        open_runner=lambda _: opened,
    )


def resume_study(folder: Path, ready: Ready) -> None:
    with StudyJournal.create(folder, study_header(study_settings())):
        pass
    start: Any = study_run.Start(
        settings=study_settings(), command="", folder=folder, resumed=StudyJournal.resume(folder)
    )
    study_run._opened(start, ready)


@pytest.mark.parametrize("resume", [resume_run, rehearse_run, resume_study])
@pytest.mark.parametrize(
    ("device", "difference"),
    [
        (DEVICE, r"PyTorch 2\.6\.0\+cu124.* PyTorch 2\.14\.1"),
        (replace(DEVICE, name="A100"), "this is A100"),
        (replace(DEVICE, limit_bytes=19 * GIB, capacity_bytes=19 * GIB), "19.0 GiB"),
    ],
)
def test_a_journal_of_other_conditions_is_not_resumed(
    resume: Callable[[Path, Ready], None], device: DeviceInfo, difference: str, tmp_path: Path
) -> None:
    with pytest.raises(FileError, match=difference) as refused:
        resume(tmp_path, replace(READY, device=device))
    assert "without --resume" in (refused.value.hint or "")
