"""A journal in which one value was edited, or a trial repeated, is refused with its line."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsprobe.records.errors import FileError
from bsprobe.records.failures import Certainty, Outcome
from bsprobe.records.trials import Purpose, Trial
from bsprobe.storage.codec import to_json
from bsprobe.storage.journal import NAME, Contents, read_journal
from tests.support.builders import (
    AMP,
    VARIANT,
    ArithmeticGpu,
    broke,
    failure,
    header,
    probed_run,
    ran,
    settings,
)
from tests.support.commands import ROOT
from tests.support.edits import edited

PREDICTED = ROOT / "reports" / "predicted-rtx-3060-12gb-deeplabv2-resnet101-512x1024"
EDITS: dict[str, tuple[object, str]] = {
    "0.device.source": ("measured", "line 1: $.device.source: "),
    "0.device.is_assumed": (True, "line 1: $.device.is_assumed: "),
    "0.settings.variants": ([], "line 1: $.settings.variants: "),
    "0.settings.target.lr_rule": ("cubic", "line 1: $.settings.target.lr_rule: "),
    "1.source": ("measured", "line 2.source: its source is measured"),
    "1.spec.seed": (1, "line 2.spec.seed: "),
    "1.spec.variant.classes": (7, "line 2.spec.variant: "),
    "1.spec.measured_steps": (9, "line 2.spec.measured_steps: "),
    "2.measurement.model.groups": ([], "line 3.measurement.model.groups: "),
    "2.measurement.images_per_second": (93.1, "line 3.measurement.images_per_second: "),
    "2.measurement.step_seconds": ([0.1] * 3, "line 3.measurement.step_seconds: "),
    "2.measurement.first_step.allocated_bytes": (-1, "line 3.measurement.first_step."),
}
"""By number of the line and place, a value, and the start of the message."""


def read(folder: Path, values: Sequence[Any]) -> Contents:
    lines = "".join(json.dumps(value) + "\n" for value in values)
    (folder / NAME).write_text(lines, encoding="utf-8")
    return read_journal(folder)


def of_trials(folder: Path, *trials: Trial) -> Contents:
    made = header(settings(VARIANT, AMP))
    return read(folder, [to_json(made), *map(to_json, trials)])


@pytest.mark.parametrize("place", EDITS)
def test_an_edited_value_is_refused_with_its_line(place: str, tmp_path: Path) -> None:
    text = (PREDICTED / NAME).read_text(encoding="utf-8")
    values = [json.loads(line) for line in text.splitlines()]
    assert len(read(tmp_path, values).trials) == len(values) - 1
    value, complaint = EDITS[place]
    with pytest.raises(FileError) as refused:
        read(tmp_path, edited(values, place, value))
    assert str(refused.value).startswith(f"{tmp_path / NAME} is damaged: {complaint}")
    assert refused.value.hint is not None


SEARCH, USED = ran(4), replace(ran(4), fresh_process=False)
UNPROVEN = broke(4, why=failure("died", certainty=Certainty.UNEXPLAINED))
AGAIN: dict[str, tuple[Trial, Trial]] = {
    "the same line": (SEARCH, SEARCH),
    "another result in a fresh process": (SEARCH, broke(4)),
    "another result in a used process": (USED, replace(broke(4), fresh_process=False)),
    "fewer steps": (SEARCH, replace(ran(4, timed=1), purpose=Purpose.SAFE)),
    "a search after a search": (
        replace(USED, purpose=Purpose.SEARCH),
        replace(SEARCH, purpose=Purpose.SEARCH),
    ),
    "a batch that timed out": (
        broke(4, Outcome.TIMED_OUT, failure("late")),
        broke(4, Outcome.TIMED_OUT, failure("late")),
    ),
}


@pytest.mark.parametrize(("first", "second"), AGAIN.values(), ids=AGAIN)
def test_a_trial_whose_result_counts_is_not_in_a_journal_again(
    first: Trial, second: Trial, tmp_path: Path
) -> None:
    with pytest.raises(FileError, match="line 4: batch 4 again, whose result is in line 2"):
        of_trials(tmp_path, first, ran(8), second)


LEGITIMATE: dict[str, tuple[Trial, Trial]] = {
    "a proof after a used process": (USED, SEARCH),
    "a proof that contradicts a used process": (USED, broke(4)),
    "another variant": (SEARCH, ran(4, variant=AMP)),
    "accumulation": (SEARCH, ran(4, accumulation_steps=2)),
    "more steps": (ran(4, timed=1), SEARCH),
    "a bug that was fixed": (broke(4, Outcome.FAILED), SEARCH),
    "no verdict": (UNPROVEN, broke(4)),
}


@pytest.mark.parametrize(("first", "second"), LEGITIMATE.values(), ids=LEGITIMATE)
def test_a_trial_that_a_run_repeats_may_be_in_a_journal_again(
    first: Trial, second: Trial, tmp_path: Path
) -> None:
    assert of_trials(tmp_path, first, second).trials == (first, second)


@pytest.mark.parametrize("stopped_after", range(9))
def test_the_journal_of_a_run_that_failed_anywhere_and_was_resumed_is_read(
    stopped_after: int, tmp_path: Path
) -> None:
    """The failure is repeated, with another result, in the journal of both runs."""

    def failing(trial: Trial) -> Trial:
        if len(gpu.asked) == stopped_after + 1:
            return broke(trial.spec.batch_size, Outcome.FAILED, failure("lost"))
        return trial

    gpu = ArithmeticGpu(alter=lambda trial: replace(failing(trial), spec=trial.spec))
    first = journalled(tmp_path / "first", gpu)
    second = journalled(tmp_path / "second", ArithmeticGpu(), known=first)
    read(tmp_path, [to_json(header(settings(VARIANT))), *map(to_json, (*first, *second))])


def journalled(folder: Path, gpu: Callable[..., Trial], known: Sequence[Trial] = ()) -> list[Trial]:
    """Return the trials that a run has run itself."""
    run = probed_run(folder, settings(VARIANT), run_trial=gpu, known=known)
    assert run.trials
    return list(read_journal(folder).trials)


def test_the_command_of_a_journal_imports_one_pytorch(tmp_path: Path) -> None:
    text = (ROOT / "reports" / "cpu-300mib-train.py" / NAME).read_text(encoding="utf-8")
    values = [json.loads(line) for line in text.splitlines()]
    read(tmp_path, values)
    with pytest.raises(FileError, match=r"line 3\.script\.torch: '1\.0', but line 2 has '2\."):
        read(tmp_path, edited(values, "2.script.torch", "1.0"))


def test_journals_that_were_recorded_are_read() -> None:
    found = [*ROOT.glob("reports/*/journal.jsonl"), *ROOT.glob("tests/data/truth/*/*/*/*.jsonl")]
    assert len(found) > 5
    assert all(read_journal(path.parent).trials for path in found)
