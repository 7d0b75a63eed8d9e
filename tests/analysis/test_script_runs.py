"""Comparisons and fleets of runs of users' commands."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from bsprobe.analysis.comparability import require_comparable
from bsprobe.analysis.compare import compare
from bsprobe.analysis.fleet import make_fleet
from bsprobe.analysis.script_facts import notes_on_run
from bsprobe.analysis.thresholds import DEFAULT_THRESHOLDS, Metric
from bsprobe.cli.compare import compare as compare_command
from bsprobe.records.errors import NotComparableError
from bsprobe.records.runs import Run
from bsprobe.report.compare import comparison, fleet
from bsprobe.storage.checks import check_run
from bsprobe.storage.codec import MalformedError
from bsprobe.storage.runfile import load_run, save_run
from tests.support.builders import VARIANT, populated_run, probed_run, settings
from tests.support.script_runs import ACCUMULATING, COMMAND, INSIDE, UNSEEN, Made


def with_torch(run: Run, script: str, own: str) -> Run:
    """The run with another PyTorch of the script, and another one of bsprobe."""
    trials = tuple(replace(t, script=replace(INSIDE, torch=script)) for t in run.trials)
    return replace(run, trials=trials, environment=replace(run.environment, torch=own))


def test_runs_of_one_command_are_compared_with_the_command_in_both_formats() -> None:
    run = Made().run()
    found = compare(run, Made().run(), DEFAULT_THRESHOLDS)
    assert found.failing == ()
    text = comparison.render(found)
    assert "command:  python train.py --batch-size {batch}\n" in text
    assert "Command: `python train.py --batch-size {batch}`." in comparison.markdown(found)
    assert text.count("PyTorch 2.14.1+cpu") == 2
    assert {line for line in text.splitlines() if line.startswith("train.py")} == {"train.py"}


@pytest.mark.parametrize(
    ("other", "fact"),
    [
        (Made(command=(*COMMAND, "--amp")), "the command"),
        (Made(multiple=4), "--batch-multiple"),
        (Made(facts=replace(INSIDE, torch="2.13.0")), "the torch version"),
    ],
)
def test_runs_of_other_commands_multiples_or_versions_are_not_comparable(
    other: Made, fact: str
) -> None:
    with pytest.raises(NotComparableError, match=f"{fact} of the baseline is"):
        require_comparable(Made().run(), other.run(), list(Metric))


def test_another_time_without_a_step_is_another_command() -> None:
    run = Made().run()
    variant = run.settings.variants[0]
    assert variant.script is not None
    other = replace(variant, script=replace(variant.script, seconds=60.0))
    changed = replace(run, settings=replace(run.settings, variants=(other,)))
    with pytest.raises(NotComparableError, match=r"--seconds of the baseline is 120.0, of .* 60.0"):
        require_comparable(run, changed, [Metric.PEAK])


def test_a_command_and_a_network_are_not_comparable(tmp_path: Path) -> None:
    network = probed_run(tmp_path, settings(VARIANT))
    network = replace(network, device=Made().device)
    with pytest.raises(NotComparableError, match=r"of the run none, but a network"):
        require_comparable(Made().run(), network, [Metric.PEAK])


def test_the_pytorch_of_the_script_decides_and_not_that_of_bsprobe() -> None:
    run = Made().run()
    require_comparable(run, with_torch(run, "2.14.0", "2.6.0"), list(Metric))
    with pytest.raises(NotComparableError):
        require_comparable(run, with_torch(run, "2.6.0", run.environment.torch), [Metric.PEAK])


def test_compare_reads_saved_runs_of_programs_without_pytorch(tmp_path: Path) -> None:
    run = Made(facts=UNSEEN).run()
    save_run(run, tmp_path)
    assert load_run(tmp_path) == run
    words = [str(tmp_path), str(tmp_path), "--format", "json"]
    done = CliRunner().invoke(compare_command, words, catch_exceptions=False)
    found = json.loads(done.output)
    assert (done.exit_code, found["run"]["torch"], found["run"]["cuda"]) == (0, "", None)
    refused = CliRunner().invoke(compare_command, [*words, "--fail-on", "throughput:5%"])
    assert isinstance(refused.exception, NotComparableError)


def test_a_fleet_tells_commands_apart_and_counts_images_for_each_process() -> None:
    ranks = Made(command=ACCUMULATING, facts=replace(INSIDE, ranks=2)).run()
    made = make_fleet([("one", Made().run()), ("two", Made(command=(*COMMAND, "-x")).run())])
    assert [subject.describe() for subject in made.subjects] == [
        "python train.py --batch-size {batch}",
        "python train.py --batch-size {batch} -x",
    ]
    (row,) = make_fleet([("ranks", ranks)]).rows
    item = ranks.best
    assert item is not None
    assert item.trial is not None
    assert item.trial.measurement is not None
    rate = item.trial.measurement.images_per_second
    assert rate is not None
    assert row.images_per_second_per_gpu == rate / 2
    long = make_fleet([("long", Made(command=(*COMMAND, *["--option"] * 20)).run())])
    assert max(map(len, fleet.render_text(long).splitlines())) <= 80


def test_the_boundary_of_a_run_must_be_between_multiples() -> None:
    run = Made(multiple=8).run()
    check_run(run)
    for multiple, complaint in ((4, "do not follow each other"), (1, "do not follow each other")):
        wrong = replace(run, settings=replace(run.settings, batch_multiple=multiple))
        with pytest.raises(MalformedError, match=complaint):
            check_run(wrong)
    of_one = replace(Made().run(), settings=run.settings)
    with pytest.raises(MalformedError, match=r"do not follow|no multiple"):
        check_run(of_one)


def test_a_largest_batch_that_is_no_multiple_is_refused() -> None:
    run = Made(multiple=8).run()
    (result,) = run.results
    boundary = replace(result.boundary, largest=28, first_failure=36)
    made = Made()
    trials = (*run.trials, made.trial(28), made.trial(36))
    trials = tuple(
        replace(t, spec=replace(t.spec, variant=run.settings.variants[0])) for t in trials
    )
    broken = replace(
        run, trials=trials, results=(replace(result, boundary=boundary, recommendation=None),)
    )
    with pytest.raises(MalformedError, match="28 is no multiple of 8"):
        check_run(broken)


def test_a_run_of_networks_has_no_note_on_commands(tmp_path: Path) -> None:
    run = populated_run(tmp_path)
    assert run.settings.script is None
    assert notes_on_run(replace(run, device=replace(run.device, limit_bytes=2**30))) == []
