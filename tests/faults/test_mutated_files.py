"""Damaged run files and journals are refused with a hint, or loaded as they are.

Loaded ones are rendered too, to find tables that contradict themselves. Nightly, 500 of each.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bsprobe._version import __version__
from bsprobe.analysis.compare import compare
from bsprobe.analysis.thresholds import DEFAULT_THRESHOLDS
from bsprobe.records.errors import FileError, NotComparableError
from bsprobe.records.runs import Run
from bsprobe.report.compare import comparison
from bsprobe.report.run import markdown, tables, terminal
from bsprobe.report.snippet import snippet
from bsprobe.storage.codec import to_json
from bsprobe.storage.journal import NAME as JOURNAL_NAME
from bsprobe.storage.journal import Journal, read_journal
from bsprobe.storage.runfile import NAME, load_run, save_run
from tests.support.builders import AMP, GROUP, VARIANT, probed_run, settings
from tests.support.mutations import KINDS, mutated, says

SEEDS = [
    *range(10 * len(KINDS)),
    *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(10 * len(KINDS), 500)),
]
"""Ten of each kind of damage; 500 in the nightly tests."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three variants, with its journal."""
    place = tmp_path_factory.mktemp("run")
    run = probed_run(place, settings(VARIANT, AMP, GROUP))
    # Of this version: all results are recomputed.
    save_run(replace(run, environment=replace(run.environment, bsprobe=__version__)), place)
    return place


@pytest.fixture(scope="module")
def whole(folder: Path) -> Run:
    return load_run(folder)


def render(run: Run) -> None:
    """Render everything except the plots, which take seconds."""
    starred = [r.recommendation for r in run.results if r.recommendation is not None]
    code = snippet.render(run, starred[0]) if starred else None
    markdown.render(run, plots=(), snippet=code)
    assert terminal.render(run).count("largest") >= 1
    tables.to_csv(tables.trials_table(run))
    tables.to_csv(tables.recommendation_table(run))


def ran_by_trials(data: bytes) -> set[tuple[str, str, int | None]]:
    """Precision, norm and batch of the measured trials; only these may be in a table."""
    return {
        (t["spec"]["variant"]["precision"], t["spec"]["variant"]["norm"], t["spec"]["batch_size"])
        for t in json.loads(data)["trials"]
        if t["measurement"] is not None
    }


def complain_clearly(error: FileError, path: Path) -> None:
    assert str(error).startswith(str(path))
    assert len(str(error)) < 1000
    assert error.hint is not None


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mutated_run_is_loaded_as_it_is_or_refused(
    tmp_path: Path, folder: Path, whole: Run, seed: int
) -> None:
    data = mutated((folder / NAME).read_bytes(), seed)
    path = tmp_path / NAME
    path.write_bytes(data)
    try:
        loaded = load_run(path)
    except FileError as error:
        complain_clearly(error, path)
        return
    assert says(to_json(loaded), json.loads(data))
    render(loaded)
    for row in tables.recommendation_table(loaded).to_dict("records"):
        assert (row["precision"], row["norm"], row["largest"]) in ran_by_trials(data)
    try:
        comparison.render(compare(whole, loaded, DEFAULT_THRESHOLDS))
    except NotComparableError as error:
        assert error.hint is not None  # noqa: PT017 - both outcomes are valid


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mutated_journal_is_read_as_it_is_or_refused_and_never_shortened(
    tmp_path: Path, folder: Path, seed: int
) -> None:
    lines = (folder / JOURNAL_NAME).read_bytes().splitlines(keepends=True)
    place = seed * 7919 % len(lines)
    damaged = mutated(lines[place].rstrip(b"\n"), seed)
    data = b"".join([*lines[:place], damaged, b"\n", *lines[place + 1 :]])
    path = tmp_path / JOURNAL_NAME
    path.write_bytes(data)
    try:
        contents = read_journal(tmp_path)
    except FileError as error:
        complain_clearly(error, path)
        with pytest.raises(FileError):
            Journal.resume(tmp_path)
        assert path.read_bytes() == data
        return
    values = [json.loads(line) for line in data.splitlines()]
    assert says(to_json(contents.header), values[0])
    assert len(contents.trials) == len(values) - 1
    assert all(says(*pair) for pair in zip(to_json(contents.trials), values[1:], strict=True))
