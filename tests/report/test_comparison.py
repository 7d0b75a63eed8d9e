"""A comparison as text, as markdown, and as annotations on GitHub."""

import re
from dataclasses import replace
from functools import partial

import pytest

from bsprobe.analysis.compare import Comparison, State, compare
from bsprobe.analysis.thresholds import parse_threshold
from bsprobe.records.errors import FileError
from bsprobe.records.runs import Boundary, Run, StopReason
from bsprobe.records.trials import Peak
from bsprobe.report.compare import comparison as texts
from tests.support import golden
from tests.support.explanations import proven

check = partial(golden.check, __file__)
THRESHOLDS = ("max-batch:0", "safe-batch:1", "peak:3%", "memory-per-image:100MiB", "throughput:10%")


@pytest.fixture(scope="module")
def worse(run: Run) -> Run:
    """A run with all kinds of regressions: one image less, more memory, a missing variant."""
    first, second, *_ = run.results
    trials = []
    for trial in run.trials:
        measured = trial.measurement
        if measured is not None and trial.spec.variant == first.variant:
            allocated, reserved = measured.steady.allocated_bytes, measured.steady.reserved_bytes
            more = int(allocated * 0.05)
            steady = Peak(allocated_bytes=allocated + more, reserved_bytes=(reserved or 0) + more)
            measured = replace(measured, steady=steady, images_per_second=7.0)
        trials.append(replace(trial, measurement=measured))
    return replace(
        run,
        environment=replace(run.environment, commit="def5678", cudnn="91600"),
        trials=tuple(trials),
        results=(replace(first, boundary=proven(4)), second),
    )


@pytest.fixture(scope="module")
def comparison(run: Run, worse: Run) -> Comparison:
    return compare(run, worse, [parse_threshold(text) for text in THRESHOLDS])


def test_text_markdown_and_annotations_are_as_agreed(comparison: Comparison) -> None:
    check("comparison.txt", texts.render(comparison), columns=80)
    check("comparison.md", texts.markdown(comparison))
    check("comparison-github.txt", texts.annotations(comparison))


def test_every_failing_check_is_an_error_and_every_doubt_a_warning(comparison: Comparison) -> None:
    few = replace(comparison, checks=comparison.checks[:8])
    doubts = [replace(each, state=State.WITHIN_NOISE) for each in comparison.checks[:3]]
    doubtful = replace(comparison, checks=tuple(doubts))
    kinds = [
        [line.split()[0] for line in texts.annotations(each).splitlines()]
        for each in (few, doubtful)
    ]
    assert kinds == [["::error"] * len(few.failing), ["::warning"] * 3 + ["::notice"]]


def test_a_comparison_without_a_failure_says_so(run: Run) -> None:
    same = compare(run, run, [parse_threshold("max-batch:0")])
    assert texts.verdict(same) == "nothing regressed in 4 checks"
    assert texts.annotations(same) == "::notice title=bsprobe::nothing regressed in 4 checks\n"


def test_no_more_errors_than_github_shows_and_the_last_counts_the_rest(
    comparison: Comparison,
) -> None:
    many = replace(comparison, checks=comparison.failing * 5)
    errors = texts.annotations(many).splitlines()
    assert len(errors) == 10
    left = len(many.checks) - 9
    assert errors[-1] == f"::error title=bsprobe::{left} more; the job's summary has all of them"


def test_a_workflow_command_cannot_be_broken_out_of() -> None:
    command = texts.workflow_command(
        "error", title="a:b,c%d\n::x", text="100% \r\n::error::injected, a:b"
    )
    assert command == ("::error title=a%3Ab%2Cc%25d%0A%3A%3Ax::100%25 %0D%0A::error::injected, a:b")


def test_an_error_is_one_annotation_with_its_hint() -> None:
    error = FileError("run.json does not exist", hint="is this\nthe folder?")
    assert texts.error_annotation(error) == (
        "::error title=bsprobe::run.json does not exist%0Ahint: is this%0Athe folder?\n"
    )


def test_what_a_program_has_said_cannot_break_the_markdown(run: Run) -> None:
    evil = "a | b\n\n# <img src=x> `c` [d](e) *f*"
    failed = Boundary(stop=StopReason.FAILED, detail=evil)
    broken = replace(run, results=(replace(run.results[0], boundary=failed), *run.results[1:]))
    text = texts.markdown(compare(run, broken, [parse_threshold("peak:3%")]))
    (line,) = [line for line in text.splitlines() if "the run failed" in line]
    assert r"a \| b # \<img src=x> `c` [d\](e) \*f\*" in line
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {9}
