"""Damaged files of other kinds than runs: studies, explanations, baselines and both caches.

Each is refused with a hint, or loaded as it is and used. Nightly, 500 of each.
"""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from bsprobe.analysis.compare import compare
from bsprobe.analysis.thresholds import DEFAULT_THRESHOLDS
from bsprobe.cli.ci import _settings_of
from bsprobe.records.errors import FileError, NotComparableError
from bsprobe.report.compare import comparison
from bsprobe.report.explain import markdown as explained
from bsprobe.report.run.tables import to_csv
from bsprobe.simulate.cudnn.cache import WorkspaceCache
from bsprobe.storage import explanationfile
from bsprobe.storage.batch_cache import ProvenBatch, Question, find_batch, keep_batch
from bsprobe.storage.codec import to_json
from bsprobe.storage.explanationfile import load_explanation, save_explanation
from bsprobe.storage.folders import STUDY
from bsprobe.storage.runfile import load_run
from bsprobe.study.journal import StudyJournal
from bsprobe.study.report import markdown as study_markdown
from bsprobe.study.report import tables as study_tables
from bsprobe.study.report import terminal as study_terminal
from bsprobe.study.studyfile import load_study, save_study
from tests.faults.test_mutated_files import SEEDS, complain_clearly
from tests.support.builders import settings
from tests.support.commands import ROOT
from tests.support.explanations import REPORT
from tests.support.mutations import mutated, says
from tests.support.study_builders import conducted, made_study

BASELINE = ROOT / "benchmarks" / "baseline.json"
CARD = {"deviceVer": 860, "name": "RTX 3090"}
QUESTION = Question(
    device="NVIDIA H100",
    capacity_bytes=80 * 2**30,
    torch="2.14.1",
    bsprobe="0.2.0",
    settings=settings(),
    sources=(("model", "0123"),),
)


Record = TypeVar("Record")


def loaded_or_refused(load: Callable[[Path], Record], path: Path, data: bytes) -> Record | None:
    """Return what is loaded, which says what the file says; None if it is refused clearly."""
    path.write_bytes(data)
    try:
        loaded = load(path)
    except FileError as error:
        complain_clearly(error, path)
        return None
    assert says(to_json(loaded), json.loads(data))
    return loaded


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study."""
    folder = tmp_path_factory.mktemp("study")
    save_study(made_study(folder), folder)
    return folder


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mutated_study_is_loaded_as_it_is_or_refused(
    tmp_path: Path, studied: Path, seed: int
) -> None:
    data = mutated((studied / STUDY).read_bytes(), seed)
    study = loaded_or_refused(lambda path: load_study(path.parent), tmp_path / STUDY, data)
    if study is None:
        return
    study_terminal.render(study)
    study_markdown.render(study, plots=(), snippet=None)
    for table in (study_tables.trainings_table(study), study_tables.curves_table(study)):
        to_csv(table)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mutated_journal_of_a_study_is_refused_or_the_study_goes_on(
    tmp_path: Path, studied: Path, seed: int
) -> None:
    lines = (studied / StudyJournal.NAME).read_bytes().splitlines(keepends=True)
    place = seed * 7919 % len(lines)
    damaged = mutated(lines[place].rstrip(b"\n"), seed)
    data = b"".join([*lines[:place], damaged, b"\n", *lines[place + 1 :]])
    path = tmp_path / StudyJournal.NAME
    path.write_bytes(data)
    try:
        found = StudyJournal.resume(tmp_path)
    except FileError as error:
        complain_clearly(error, path)
        assert path.read_bytes() == data
        return
    assert found is not None
    journal, contents = found
    values = [json.loads(line) for line in data.splitlines()]
    assert says(to_json(contents.header), values[0])
    assert all(says(*pair) for pair in zip(to_json(contents.trainings), values[1:], strict=True))
    chosen = contents.header.settings
    study = conducted(journal, chosen, None, tmp_path, contents.trainings)
    study_terminal.render(study)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mutated_explanation_is_loaded_as_it_is_or_refused(tmp_path: Path, seed: int) -> None:
    save_explanation(REPORT, tmp_path)
    path = tmp_path / explanationfile.NAME
    loaded = loaded_or_refused(load_explanation, path, mutated(path.read_bytes(), seed))
    if loaded is None:
        return
    explained.render_terminal(loaded)
    explained.render(loaded, plots=(), measured=())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mutated_baseline_is_compared_as_it_is_or_refused(tmp_path: Path, seed: int) -> None:
    data = BASELINE.read_bytes()
    loaded = loaded_or_refused(load_run, tmp_path / "baseline.json", mutated(data, seed))
    if loaded is None:
        return
    _settings_of(loaded, tmp_path)
    try:
        comparison.render(compare(loaded, load_run(BASELINE), DEFAULT_THRESHOLDS))
    except NotComparableError as error:
        assert error.hint is not None  # noqa: PT017 - both outcomes are valid


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mutated_cached_batch_is_found_as_it_is_or_searched_again(
    tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    found = ProvenBatch(
        question=QUESTION, batch=12, first_failure=13, files=(), found_at="2026-11-27T21:00:00Z"
    )
    keep_batch(tmp_path, found)
    path = QUESTION.path(tmp_path)
    data = mutated(path.read_bytes(), seed)
    path.write_bytes(data)
    caplog.set_level(logging.INFO)
    again = find_batch(tmp_path, QUESTION)
    if again is None:
        return
    assert says(to_json(again), json.loads(data))
    assert again.question == QUESTION
    assert again.first_failure in (None, again.batch + 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_mutated_cached_workspaces_are_found_as_they_are_or_computed_again(
    tmp_path: Path, seed: int
) -> None:
    path = tmp_path / "cache.json"
    cache = WorkspaceCache(path, described=CARD)
    answers: dict[str, tuple[int, ...]]
    answers = {f"convolution {number}": (number, 2**number) for number in range(20)}
    for key, answer in answers.items():
        cache.add(key, answer)
    cache.save()
    data = mutated(path.read_bytes(), seed)
    path.write_bytes(data)
    reopened = WorkspaceCache(path, described=CARD)
    try:
        known = json.loads(data)["answers"]
    except (ValueError, KeyError, TypeError):
        known = {}
    for key in answers:
        size = reopened.find(key)
        assert size is None or list(size) == known[key]
    reopened.add("new", (1,))
    reopened.save()
    assert WorkspaceCache(path, described=CARD).find("new") == (1,)


@pytest.mark.parametrize("number", [10**400, -(10**400), 10**4000])
def test_a_size_of_400_digits_is_out_of_range_in_every_file(
    tmp_path: Path, studied: Path, number: int
) -> None:
    def edited(value: object, field: str) -> bytes:
        text = json.dumps(value)
        found = re.search(rf'"{field}": \d+', text)
        assert found is not None
        return (text[: found.start()] + f'"{field}": {number}' + text[found.end() :]).encode()

    run, study = tmp_path / "run.json", tmp_path / STUDY
    explanation = tmp_path / explanationfile.NAME
    run.write_bytes(edited(json.loads(BASELINE.read_bytes()), "allocated_bytes"))
    study.write_bytes(edited(json.loads((studied / STUDY).read_bytes()), "peak_bytes"))
    explanation.write_bytes(edited(to_json(REPORT), "peak_reserved_bytes"))
    for load, path in (
        (load_run, run),
        (lambda path: load_study(path.parent), study),
        (load_explanation, explanation),
    ):
        with pytest.raises(FileError, match="is out of range") as refused:
            load(path)
        complain_clearly(refused.value, path)
