"""The progress lines of a study."""

import io

from rich.console import Console

from bsprobe.study.records import Study
from bsprobe.study.report.progress import StudyProgress


def test_each_ending_of_a_training_is_told_in_its_line(troubled: Study) -> None:
    written = io.StringIO()
    progress = StudyProgress(troubled.settings, Console(file=written, width=100))
    for training in troubled.trainings:
        progress.on_training(training)
    told = {line.split("seed")[0].strip(): line for line in written.getvalue().splitlines()}
    assert "out of memory in step 1 (" in told["batch 8 (8 x 1),"]
    assert ", mIoU 0." in told["batch 8 (4 x 2),"]
    assert " at update " in told["batch 2 (2 x 1),"]
