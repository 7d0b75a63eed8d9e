"""Reports of a run whose memory grows state it, and call no batch safe."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from bsprobe.analysis.fleet import make_fleet
from bsprobe.engine.executable_batch import growth_error
from bsprobe.records.growth import Growth
from bsprobe.records.runs import Run
from bsprobe.records.units import MIB
from bsprobe.report.compare import fleet as fleet_report
from bsprobe.report.run import markdown, tables, terminal
from bsprobe.storage.checks import check_run
from bsprobe.storage.codec import MalformedError
from tests.support.builders import AMP, VARIANT, probed_run, settings

GROWTH = (
    Growth(batch=1, bytes_per_step=3 * MIB, steps=24, full_at_step=6100),
    Growth(batch=12, bytes_per_step=36 * MIB, steps=24, full_at_step=31),
)


@pytest.fixture(scope="module")
def level(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return probed_run(tmp_path_factory.mktemp("run"), settings(VARIANT, AMP))


@pytest.fixture(scope="module")
def grown(level: Run) -> Run:
    """Memory grows in both variants."""
    results = tuple(replace(each, recommendation=None, growth=GROWTH) for each in level.results)
    return replace(level, results=results)


def report(run: Run) -> str:
    return markdown.render(run, plots=(), snippet=None)


@pytest.mark.parametrize("show", [terminal.render, report])
def test_growth_and_the_full_step_are_stated_and_nothing_is_safe(
    show: Callable[[Run], str], grown: Run
) -> None:
    said = " ".join(show(grown).split())
    for words in ("36 MiB a step at batch 12", "step 31", "3 MiB a step at batch 1", "step 6,100"):
        assert words in said
    assert "No batch is safe" in said
    assert "leaves 5%" not in said
    assert "## Train with it" not in said


def test_a_variant_that_does_not_grow_keeps_its_recommendation(level: Run, grown: Run) -> None:
    mixed = replace(level, results=(grown.results[0], level.results[1]))
    _, first, second = terminal.recommendation_table(mixed).splitlines()
    assert first.split()[-7:] == ["12", *["-"] * 6]
    assert "-" not in second.split()
    assert "24 steps: memory grows" in " ".join(terminal.render(mixed).split())
    check_run(mixed)


def test_the_table_of_results_has_the_growth(level: Run, grown: Run) -> None:
    columns = ["growth_bytes_per_step", "growth_batch", "full_at_step"]
    found, before = (tables.recommendation_table(run) for run in (grown, level))
    assert found[columns].iloc[0].tolist() == [36 * MIB, 12, 31]
    assert before[columns].iloc[0].tolist() == [None] * 3
    assert (found["safe"].iloc[0], before["safe"].iloc[0]) == (None, 11)


def test_the_fleet_names_the_machine(grown: Run) -> None:
    fleet = make_fleet([("a", grown)])
    assert "memory grows in every step" in " ".join(fleet_report.render_text(fleet).split())


def test_the_api_refuses_to_name_a_batch(level: Run, grown: Run) -> None:
    error = growth_error(grown.results[0])
    assert error is not None
    assert "36 MiB" in str(error)
    assert growth_error(level.results[0]) is None


def test_a_file_that_recommends_a_batch_although_memory_grows_is_refused(level: Run) -> None:
    results = tuple(replace(each, growth=GROWTH) for each in level.results)
    with pytest.raises(MalformedError, match="grows"):
        check_run(replace(level, results=results))


SLOW = (Growth(batch=12, bytes_per_step=512, steps=24, full_at_step=4_728_857),)


@pytest.mark.parametrize("show", [terminal.render, report])
def test_growth_that_outlasts_every_training_is_a_note_beside_the_recommendation(
    show: Callable[[Run], str], level: Run
) -> None:
    results = tuple(replace(each, growth=SLOW) for each in level.results)
    run = replace(level, results=results)
    check_run(run)
    said = " ".join(show(run).split())
    assert "512 B a step at batch 12" in said
    assert "step 4,728,857" in said
    assert "No batch is safe" not in said
    assert growth_error(run.results[0]) is None
