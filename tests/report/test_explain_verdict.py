"""The sentences of an explanation are true below, at and above the largest batch."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bsprobe.analysis.remedies import brings_something
from bsprobe.records.explanations import (
    LOSS,
    NETWORK,
    NOT_ATTRIBUTED,
    ExplanationReport,
    MeasuredSide,
)
from bsprobe.records.runs import Boundary, StopReason
from bsprobe.records.units import GIB, MIB
from bsprobe.report.explain import changes, verdict, write
from bsprobe.report.explain.markdown import render, render_changes, render_terminal
from bsprobe.report.explain.places import where
from bsprobe.report.explain.plots import kinds_figure
from bsprobe.report.explain.write import write_changes, write_explanation
from tests.support.explanations import (
    EXPLANATION,
    GPU,
    REMEDIES,
    REPORT,
    point,
    proven,
    remedy,
    without_drawing,
)

PLOTS = ("step-by-kind", "step-by-module")
NOTHING = Boundary(stop=StopReason.NOTHING_FITS, first_failure=2)
KERNEL = Boundary(
    stop=StopReason.KERNEL_LIMIT, largest=2, first_failure=3, detail="more than 2^31 elements"
)
MOST = Boundary(stop=StopReason.MAX_BATCH, largest=2, detail="batch 2 ran")
DIED = Boundary(stop=StopReason.FAILED, largest=1, first_failure=2, detail="the process died")
STOPPED = Boundary(stop=StopReason.TIME, largest=4, detail="the time limit was reached")


def reported(boundary: Boundary, **fields: Any) -> ExplanationReport:
    """Return a report on batch 2, which takes 8.25 of 12 GiB, and with one more image 13 GiB."""
    return replace(REPORT, boundary=boundary, explanation=replace(EXPLANATION, **fields))


TOO_LARGE = {"fits": False, "peak_reserved_bytes": 14 * GIB, "line": ()}
"""Batch 2 does not fit: it takes 14.2 GiB."""
FITS, FAILS, HOW_MUCH = "Why batch 3 does not fit", "Why batch 2 does not fit", "How much batch 2"


@pytest.mark.parametrize(
    ("boundary", "fields", "title", "facts", "absent"),
    [
        pytest.param(proven(5), {}, HOW_MUCH, ("8.25 GiB of 12.0", "is 5."), "13.0", id="below"),
        pytest.param(proven(2), {}, FITS, ("13.0 GiB, 1.00 GiB more",), "largest", id="at"),
        pytest.param(
            proven(1), TOO_LARGE, FAILS, ("14.2 GiB: 2.25 GiB more", "is 1."), "atch 3", id="above"
        ),
        pytest.param(NOTHING, TOO_LARGE, FAILS, ("No batch fits", "smallest"), "3", id="no batch"),
        pytest.param(
            replace(NOTHING, first_failure=1), TOO_LARGE, FAILS, ("not even batch 1",), "3",
            id="not even the smallest",
        ),
        pytest.param(KERNEL, {}, FITS, ("2^31", "Batch 3"), "13.0", id="a limit of a kernel"),
        pytest.param(
            replace(KERNEL, largest=7, first_failure=8), {}, HOW_MUCH, ("is 7.", "2^31"), "13.0",
            id="below a limit of a kernel",
        ),
        pytest.param(MOST, {}, HOW_MUCH, ("--max-batch", "not known"), "13.0", id="max batch"),
        pytest.param(DIED, {}, HOW_MUCH, ("failed: the process died",), "13.0", id="failed"),
        pytest.param(DIED, TOO_LARGE, FAILS, ("atch 1 fits", "process died"), "is 1", id="both"),
        pytest.param(STOPPED, {}, HOW_MUCH, ("atch 4 fits", "time limit"), "13.0", id="time"),
        pytest.param(proven(1), {}, HOW_MUCH, ("Yet batch 2 does not",), "13.0", id="a gap above"),
        pytest.param(proven(5), TOO_LARGE, FAILS, ("Yet batch 5 fits",), "13.0", id="a gap below"),
        pytest.param(
            proven(2), {"next_peak_bytes": 11 * GIB}, FITS, ("Batch 3 does not fit.",), "as well",
            id="the next runs without a limit",
        ),
    ],
)  # fmt: skip
def test_title_and_verdict_are_true_of_the_batch_and_the_search(
    boundary: Boundary,
    fields: dict[str, Any],
    title: str,
    facts: tuple[str, ...],
    absent: str,
) -> None:
    report = reported(boundary, **fields)
    said = verdict.why(report)
    assert verdict.title(report).startswith(title)
    assert [fact for fact in facts if fact not in said] == []
    assert absent not in said
    assert said in " ".join(render_terminal(report).split())
    assert f"**{verdict.title(report)}** {said}" in render(report, plots=PLOTS)


@pytest.mark.parametrize(
    "fields",
    [
        {"timeline": replace(EXPLANATION.timeline, next_allocated_bytes=(11 * GIB,) * 4)},
        {"fits": False, "peak_reserved_bytes": 14 * GIB},
    ],
    ids=["the next batch", "the explained batch"],
)
def test_a_batch_that_fails_for_fragmentation_alone_is_called_so(fields: dict[str, Any]) -> None:
    fragmented = reported(proven(2 if "timeline" in fields else 1), **fields)
    assert "fragmented" in verdict.why(fragmented)
    full = (13 * GIB,) * 4
    timeline = replace(EXPLANATION.timeline, next_allocated_bytes=full)
    assert "fragmented" not in verdict.why(reported(proven(2), timeline=timeline))


def test_fragmentation_stands_apart_from_the_fixed_part() -> None:
    fragmented = replace(EXPLANATION, peak_reserved_bytes=EXPLANATION.peak_reserved_bytes + GIB)
    for found, apart in ((EXPLANATION, "320 MiB"), (fragmented, "1.31 GiB")):
        assert f"832 MiB fixed + 2 x 3.56 GiB + {apart} rounding" in verdict.arithmetic(found)
        text = render(replace(REPORT, explanation=found), plots=PLOTS)
        (row, *_) = (line for line in text.splitlines() if line.startswith("| rounding"))
        assert row.endswith("| - | - |")


def test_a_batch_off_the_line_is_named_with_the_place_of_its_peak() -> None:
    said = verdict.arithmetic(EXPLANATION)
    assert "batches 1, 2, 3, 5)" in said
    assert "Batch 5 takes 512 MiB more than this line: its peak is in the backward" in said
    on_it = replace(EXPLANATION, line=EXPLANATION.line[:-1])
    assert "than this line" not in verdict.arithmetic(on_it)
    below = replace(EXPLANATION, line=(point(1, 4000, 0), *on_it.line))
    assert "Batch 1 takes 480 MiB less than this line." in verdict.arithmetic(below)


def test_an_explanation_of_an_earlier_version_names_no_batches_of_a_line() -> None:
    earlier = replace(REPORT, explanation=replace(EXPLANATION, line=()))
    text = render(earlier, plots=PLOTS)
    assert ("a line over" in text, "## Batches" in text) == (False, False)
    assert "The workspace counts as fixed." in text


@pytest.mark.parametrize(
    ("phase", "module", "words"),
    [
        ("forward", LOSS, "in the forward pass, in the loss (mul)"),
        ("backward", NETWORK, "in the backward pass, in the network itself (mul)"),
        ("backward", "layer1.0", "in the backward pass, in layer1.0 (mul)"),
        ("optimizer", "", "in the optimizer's update (mul)"),
        ("setup", "", "before the first step (mul)"),
        ("forward", "", "in the forward pass, in no module (mul)"),  # of an earlier version
    ],
)
def test_the_place_of_the_peak_is_named(phase: str, module: str, words: str) -> None:
    found = replace(EXPLANATION, phase=phase, module=module, operator="mul")
    assert where(found) == words
    assert f"The peak is {words}." in verdict.what(replace(REPORT, explanation=found))
    (axes,) = kinds_figure(found).axes
    assert axes.get_title("left").endswith(re.split(r",| \(", words)[0])


def test_a_recorded_peak_without_a_match_names_its_source_line() -> None:
    operator = f"{NOT_ATTRIBUTED}: nets.py:9 forward"
    found = replace(EXPLANATION, module=NOT_ATTRIBUTED, operator=operator)
    assert where(found).endswith("(nets.py:9 forward)")
    assert where(replace(found, operator=NOT_ATTRIBUTED)).endswith("predicted one")


def test_the_largest_part_is_named_if_it_is_no_tensor() -> None:
    small = replace(EXPLANATION, outside_allocator_bytes=9 * GIB, allocations=())
    assert verdict.what(replace(REPORT, explanation=small)).startswith(
        "53% of the peak are outside"
    )


def test_the_picture_of_a_batch_that_does_not_fit_is_marked() -> None:
    marked = {
        fits: "does not fit"
        in kinds_figure(replace(EXPLANATION, fits=fits)).axes[0].get_title("left")
        for fits in (True, False)
    }
    assert marked == {True: False, False: True}


def test_the_measured_search_is_described_by_its_end() -> None:
    def said(boundary: Boundary) -> str:
        side = MeasuredSide(device=GPU, boundary=boundary, failure="out of memory")
        return verdict.measured(side, EXPLANATION)

    assert "Batch 3 did not run" in said(proven(2))
    assert "No batch fits there." in said(NOTHING)
    assert "the time limit was reached" in said(STOPPED)
    assert "2^31" in said(KERNEL)


@pytest.mark.parametrize("boundary", [DIED, MOST, STOPPED], ids=lambda each: each.stop)
def test_changes_are_not_compared_by_a_boundary_that_is_not_proven(boundary: Boundary) -> None:
    said = changes.what_helps(reported(boundary))
    assert ("not known" in said, boundary.detail in said) == (True, True)
    assert ("it is 7" in said, "larger than" in said) == (False, False)


def test_the_largest_batch_stands_beside_that_of_the_best_changes() -> None:
    said = changes.what_helps(REPORT)
    assert "is 2; with `--precision amp-fp16` it is 5 (costs nothing" in said
    assert "with `--checkpointing on` it is 7 (slower" in said
    assert changes.what_helps(reported(NOTHING)).startswith("No batch fits as it is; with `--p")
    (best, *_) = REMEDIES
    unproven = replace(best, boundary=replace(MOST, largest=64))
    assert "at least 64" in changes.what_helps(replace(REPORT, remedies=(unproven,)))


@pytest.mark.parametrize(("boundary", "fact"), [(proven(2), "2"), (NOTHING, "fit")])
def test_where_no_change_helps_it_is_said(boundary: Boundary, fact: str) -> None:
    said = changes.what_helps(replace(reported(boundary), remedies=()))
    assert (said[:16], fact in said) == ("No single change", True)


IDLE = tuple(
    remedy(name, "none", name, boundary=proven(2), peak_bytes=EXPLANATION.peak_bytes)
    for name in ("nhwc", "group-amp")
)


def test_changes_that_bring_nothing_are_one_line() -> None:
    report = replace(REPORT, remedies=(*REMEDIES, *IDLE))
    line = "Nothing gained with: nhwc, group-amp; failed: adamw (no such thing here)."
    assert changes.without_gain(report) == line
    assert line in " ".join(render_changes(report).split())
    text = render(report, plots=PLOTS)
    assert [each for each in text.splitlines() if "nhwc" in each] == [line]
    assert "| `--optimizer adamw`" not in text
    only_idle = render_changes(replace(REPORT, remedies=IDLE))
    assert ("largest  at" in only_idle, "nhwc, group-amp." in only_idle) == (False, True)


def test_a_change_that_takes_less_memory_brings_something() -> None:
    (idle, _) = IDLE
    less = replace(idle, peak_bytes=8 * GIB)
    hardly_less = replace(idle, peak_bytes=EXPLANATION.peak_bytes - MIB)
    larger = replace(idle, boundary=proven(3), peak_bytes=None)
    accumulated = REMEDIES[2]
    found = [less, hardly_less, larger, accumulated, replace(accumulated, boundary=None)]
    brings = [brings_something(each, EXPLANATION, proven(2)) for each in found]
    assert brings == [True, False, True, True, False]


def test_what_is_known_is_written_before_the_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "write_explanation_plots", without_drawing)
    known = replace(REPORT, remedies=(), are_remedies_known=False)
    write_explanation(known, tmp_path)
    text = (tmp_path / "explain.md").read_text(encoding="utf-8")
    assert (tmp_path / "step-by-kind.png").exists()
    assert not (tmp_path / "remedies.csv").exists()
    assert ("not predicted" in text, "## Changes" in text, "as it is" in text) == (
        True,
        False,
        False,
    )
    write_changes(REPORT, tmp_path)
    assert (tmp_path / "remedies.csv").exists()
    assert (tmp_path / "explain.md").read_text(encoding="utf-8") == render(REPORT, plots=PLOTS)
