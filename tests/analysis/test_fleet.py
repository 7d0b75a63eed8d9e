"""Runs of several machines as one table: order, missing variants, differences."""

from dataclasses import replace

import pytest

from bsprobe.analysis.fleet import make_fleet, subject_of
from bsprobe.records.runs import Environment, Run, Target
from bsprobe.records.trials import Source
from bsprobe.records.units import GIB
from bsprobe.records.variants import Variant
from tests.support.builders import AMP, GROUP, UNUSUAL, VARIANT, probed_run, settings

TOGETHER = "4 x One: batches, peaks and images/s are per GPU, effective batch and LR of all GPUs."


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three variants of one network on a GPU that is called RTX 4090."""
    return probed_run(tmp_path_factory.mktemp("run"))


def on(
    run: Run, name: str, *, capacity_gib: int = 20, limit_bytes: int | None = None, **facts: object
) -> Run:
    """The same figures on another machine."""
    device = replace(
        run.device, name=name, capacity_bytes=capacity_gib * GIB, limit_bytes=limit_bytes
    )
    environment: Environment = replace(run.environment, **facts)  # type: ignore[arg-type] # names of fields and their values
    return replace(run, device=device, environment=environment)


def only(run: Run, *variants: Variant) -> Run:
    """The run with only some of its variants."""
    return replace(
        run,
        settings=replace(run.settings, variants=variants),
        trials=tuple(trial for trial in run.trials if trial.spec.variant in variants),
        results=tuple(result for result in run.results if result.variant in variants),
    )


def test_each_variant_has_a_row_a_machine_the_smallest_memory_first(run: Run) -> None:
    fleet = make_fleet(
        [
            ("a", on(run, "NVIDIA A100-SXM4-80GB", capacity_gib=79)),
            ("b", on(run, "NVIDIA GeForce RTX 3060", capacity_gib=11)),
        ]
    )
    assert [(member.name, member.path) for member in fleet.members] == [
        ("RTX 3060", "b"),
        ("A100-SXM4-80GB", "a"),
    ]
    largest = [result.boundary.largest for result in run.results]
    assert [
        (row.variant, row.member, row.result and row.result.boundary.largest) for row in fleet.rows
    ] == [
        (variant, member, batch)
        for variant, batch in zip((VARIANT, AMP, GROUP), largest, strict=True)
        for member in ("RTX 3060", "A100-SXM4-80GB")
    ]
    assert fleet.notes == ()


def test_a_variant_that_a_machine_was_not_asked_for_is_an_empty_row_and_a_note(run: Run) -> None:
    fleet = make_fleet([("a", on(run, "One")), ("b", only(on(run, "Two"), VARIANT, GROUP))])
    missing = [(row.variant, row.member) for row in fleet.rows if row.result is None]
    assert missing == [(AMP, "Two")]
    assert fleet.notes == ("amp-fp16 / batch was not probed on Two.",)


def test_two_runs_of_one_machine_complete_each_other(run: Run) -> None:
    one = only(on(run, "One", started_at="2025-01-01T00:00:00+00:00"), VARIANT, GROUP)
    fleet = make_fleet([("later", only(on(run, "One"), AMP)), ("earlier", one)])
    assert [(row.variant, row.member) for row in fleet.rows] == [
        (VARIANT, "One (1)"),
        (GROUP, "One (1)"),
        (AMP, "One (2)"),
    ]
    assert (fleet.member("One (1)").path, fleet.notes) == ("earlier", ())


def test_what_none_of_a_machines_runs_was_asked_for_is_said_once(run: Run) -> None:
    earlier = only(on(run, "One", started_at="2025-01-01T00:00:00+00:00"), VARIANT)
    runs = [("a", earlier), ("b", only(on(run, "One"), GROUP)), ("c", on(run, "Two"))]
    fleet = make_fleet(runs)
    assert [row.member for row in fleet.rows if row.result is None] == ["One (1)"]
    assert fleet.notes == ("amp-fp16 / batch was not probed on One (1).",)


def test_a_limit_makes_another_machine_and_is_in_its_name(run: Run) -> None:
    fleet = make_fleet(
        [("a", on(run, "One")), ("b", on(run, "One", capacity_gib=8, limit_bytes=8 * GIB))]
    )
    assert [member.name for member in fleet.members] == ["One, 8.00 GiB", "One"]


def test_a_measured_and_a_predicted_run_of_one_card_do_not_complete_each_other(run: Run) -> None:
    predicted = only(on(run, "One"), VARIANT)
    predicted = replace(predicted, device=replace(predicted.device, source=Source.PREDICTED))
    fleet = make_fleet([("a", on(run, "One")), ("b", predicted)])
    assert [(row.source, row.result is None) for row in fleet.rows] == [
        each
        for is_missing in (False, True, True)
        for each in ((Source.MEASURED, False), (Source.PREDICTED, is_missing))
    ]
    assert (
        "Source differs: measured on One (1); predicted on One (2). A predicted row is not a "
        "measurement." in fleet.notes
    )


def test_another_network_is_a_table_of_its_own_and_its_absence_is_said(
    run: Run, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = probed_run(tmp_path_factory.mktemp("other"), settings(UNUSUAL))
    fleet = make_fleet([("a", on(run, "One")), ("b", on(other, "Two", capacity_gib=40))])
    assert fleet.subjects == (subject_of(VARIANT), subject_of(UNUSUAL))
    assert {row.member for row in fleet.rows_of(subject_of(UNUSUAL))} == {"Two"}
    assert fleet.notes == (
        "deeplabv2-resnet101 at 512x1024 was not probed on Two.",
        f"{UNUSUAL.subject} was not probed on One.",
    )


def test_images_per_second_are_of_one_gpu_where_several_train_together(
    run: Run,
) -> None:
    alone = make_fleet([("a", run)]).rows[0].images_per_second_per_gpu
    assert alone is not None
    result = run.results[0]
    item = result.recommendation
    assert item is not None
    assert item.trial is not None
    trial = replace(item.trial, spec=replace(item.trial.spec, processes=4))
    together = replace(
        on(run, "One"),
        settings=replace(run.settings, processes=4),
        results=(
            replace(result, recommendation=replace(item, trial=trial)),
            *run.results[1:],
        ),
    )
    fleet = make_fleet([("a", together)])
    assert fleet.rows[0].images_per_second_per_gpu == alone / 4
    assert (fleet.rows[0].member, fleet.notes) == ("4 x One", (TOGETHER,))


def test_the_same_run_by_two_paths_counts_once(run: Run) -> None:
    fleet = make_fleet([("a", run), ("b", run)])
    assert [member.path for member in fleet.members] == ["a"]
    assert fleet.notes == ("b is the same run as a; it counts once.",)


def test_what_differs_besides_the_machine_is_said(run: Run) -> None:
    other = on(run, "Two", torch="2.7.0", cudnn=None, bsprobe="0.2.0")
    target = Target(batch=16, base_batch=8, base_learning_rate=0.01, lr_rule="sqrt", headroom=0.1)
    other = replace(other, settings=replace(other.settings, target=target))
    notes = make_fleet([("a", on(run, "One")), ("b", other)]).notes
    facts = (
        "Wanted effective batch differs: 10 on One; 16 on Two.",
        "Reference rate differs: 0.00025 at 10 on One; 0.01 at 8 on Two.",
        "Rule for the rate differs: the optimizer's on One; sqrt on Two.",
        "Headroom differs: 5% on One; 10% on Two.",
        "PyTorch differs: 2.6.0+cu124 on One; 2.7.0 on Two.",
        "cuDNN differs: 90100 on One; none on Two.",
        "bsprobe differs: 0.1.0 on One; 0.2.0 on Two.",
    )
    assert len(notes) == len(facts)
    assert all(note.startswith(fact) for note, fact in zip(notes, facts, strict=True))


def test_a_name_that_is_all_brand_stays(run: Run) -> None:
    assert make_fleet([("a", on(run, "NVIDIA"))]).members[0].name == "NVIDIA"
