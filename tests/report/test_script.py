"""Runs of users' commands in every text, table and picture."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from bsprobe.records.failures import Outcome
from bsprobe.records.runs import Boundary, Run, StopReason, Target
from bsprobe.records.scripts import MemoryLimit, Script, ScriptFacts, View
from bsprobe.records.variants import labels
from bsprobe.report.run import (
    legend,
    markdown,
    plain,
    plots,
    sentences,
    tables,
    terminal,
    train_with,
)
from bsprobe.report.run.plan import render as render_plan
from bsprobe.report.run.write import write_report
from bsprobe.storage.folders import run_name
from tests.support import golden
from tests.support.script_runs import (
    ACCUMULATING,
    BY_ROOT,
    COMMAND,
    INSIDE,
    UNSEEN,
    Made,
    failed,
)

check = partial(golden.check, __file__)
WROTE = ("last.pt", "log.txt", "a", "b", "c", "d", "e")
SIXTY_FOUR = replace(BY_ROOT, batch=64)
NOT_KNOWN = re.compile(r"fp32|\bSGD\b|as.built|own size|classes|batch norm|BatchNorm|nchw|None")
"""Words on settings of a network, which are not known of a command."""


@pytest.fixture(scope="module")
def accumulating() -> Run:
    facts = replace(INSIDE, wrote=WROTE)
    return Made(command=ACCUMULATING, facts=facts, target=SIXTY_FOUR).run()


def texts(run: Run) -> tuple[str, ...]:
    """Every text of a run, the plan included."""
    return (
        terminal.render(run),
        markdown.render(run, plots=(), snippet=None),
        render_plan(run.settings, None, run.device),
        tables.to_csv(tables.trials_table(run)).decode(),
        tables.to_csv(tables.recommendation_table(run)).decode(),
    )


def flat(text: str) -> str:
    return " ".join(text.split())


def test_every_text_of_a_command_is_as_agreed(accumulating: Run) -> None:
    check("script.txt", terminal.render(accumulating), columns=80)
    check("script.md", markdown.render(accumulating, plots=("memory",), snippet=None))
    plan = render_plan(accumulating.settings, None, accumulating.device)
    check("script-plan.txt", plan, columns=90)


@pytest.mark.parametrize("facts", [INSIDE, UNSEEN, replace(INSIDE, ranks=2)])
def test_no_text_states_a_setting_of_a_network(facts: ScriptFacts) -> None:
    for text in texts(Made(facts=facts).run()):
        lines = [line for line in text.splitlines() if not line.startswith("device,")]
        assert [line for line in lines if NOT_KNOWN.search(line)] == []


def test_the_columns_of_a_network_are_empty_and_those_of_a_command_are_filled() -> None:
    run = Made(command=(*COMMAND, "--x={x}")).run()
    trial = tables.trials_table(run).iloc[0].to_dict()
    assert trial["model"] == "python train.py --batch-size {batch} '--x={x}'"
    for column in ("resolution", "precision", "norm", "optimizer", "memory_format", "ddp"):
        assert trial[column] is None
        assert tables.recommendation_table(run).iloc[0].to_dict().get(column) is None
    found = {name: trial[name] for name in ("view", "steps_seen", "limit", "script_torch")}
    assert found == {
        "view": "inside",
        "steps_seen": 5,
        "limit": "data above PyTorch",
        "script_torch": "2.14.1+cpu",
    }


def test_the_folder_has_the_name_of_the_script() -> None:
    made = Made(command=("torchrun", "scripts/My Train.py", "{batch}"))
    assert run_name(made.device, made.settings) == "cpu-1.46gib-my-train.py"


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (MemoryLimit.ALLOCATOR_SETTING, "per_process_memory_fraction of"),
        (MemoryLimit.FRACTION, "set_per_process_memory_fraction"),
        (MemoryLimit.DATA, "RLIMIT_DATA, from its start"),
        (MemoryLimit.DATA_ABOVE_PYTORCH, "RLIMIT_DATA, above"),
    ],
)
def test_the_way_of_the_limit_is_stated(limit: MemoryLimit, words: str) -> None:
    for text in texts(Made(facts=replace(INSIDE, limit=limit)).run())[:2]:
        assert f"memory limit holds for each process ({words}" in flat(text)


def test_without_a_limit_none_is_stated_and_one_that_was_not_applied_is_a_note() -> None:
    made = Made(facts=replace(INSIDE, limit=None))
    free = replace(made, device=replace(made.device, limit_bytes=None))
    assert "memory limit" not in terminal.render(free.run())
    assert "The memory limit was not applied" in flat(terminal.render(made.run()))


def test_the_versions_of_the_script_stand_beside_those_of_bsprobe(accumulating: Run) -> None:
    text = markdown.render(accumulating, plots=(), snippet=None)
    rows = dict(re.findall(r"^\| (\w+ of (?:the script|bsprobe)) \| (.*) \|$", text, re.MULTILINE))
    assert rows == {
        "PyTorch of the script": "2.14.1+cpu",
        "Python of the script": "3.12.3",
        "PyTorch of bsprobe": "2.6.0+cu124",
        "Python of bsprobe": "3.11.9",
    }
    assert "| CUDA, cuDNN |" not in text


def test_a_row_without_a_seen_step_says_so_with_the_option_in_the_legend() -> None:
    run = Made(facts=UNSEEN).run()
    text, page = terminal.render(run), markdown.render(run, plots=(), snippet=None)
    assert re.search(r"^  train.py,.*\n  not seen to step$", text, re.MULTILINE)
    assert "| train.py, not seen to step |" in page
    for each in (text, page):
        assert "alive after 120 s (--seconds)" in flat(each)
        assert "images/s:" not in each
    assert "ok, not seen to step | 150 MiB | 150 MiB | - | - | - | 3.2 s |" in page
    assert "not seen to step" in plain.trial_line(run.trials[0])
    assert "not seen" not in " ".join(texts(Made().run()))


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (
            View.KEPT_OUT,
            "which keeps bsprobe out: memory was read from /proc",
        ),
        (View.WITHOUT_PYTORCH, "No process loaded PyTorch: memory was read from /proc"),
    ],
)
def test_memory_that_was_read_from_outside_is_noted(view: View, words: str) -> None:
    run = Made(facts=replace(UNSEEN, view=view)).run()
    for text in texts(run)[:2]:
        assert words in flat(text)


def test_one_early_death_before_pytorch_is_loaded_is_no_program_without_pytorch() -> None:
    run = Made().run()
    *others, last = run.trials
    early = replace(run.trials[5], script=UNSEEN)
    assert early.outcome is Outcome.OUT_OF_MEMORY
    text = terminal.render(replace(run, trials=(*others, last, early)))
    assert "No process loaded PyTorch" not in text


def test_ranks_count_in_the_effective_batch_and_in_the_titles() -> None:
    facts = replace(INSIDE, ranks=2)
    run = Made(command=ACCUMULATING, facts=facts, target=SIXTY_FOUR).run()
    text = terminal.render(run)
    assert "For an effective batch of 64 (use x 2 processes):" in text
    assert re.search(r"^  train.py +28 +26 +16 x 2 +64 ", text, re.MULTILINE)
    assert "2 processes train together; batches are per process." in text
    assert "processes: batches and peaks are of the process that takes the most" in text
    assert "x processes" in dict(legend.meanings(run, {"use"}))["use"]
    assert set(tables.trials_table(run)["processes"]) == {2}
    figure = plots.memory_figure(run)
    assert figure is not None
    assert figure.axes[1].get_xlabel() == "batch size (images per forward pass and process)"


def test_pictures_are_titled_by_the_script_and_a_program_without_steps_has_no_throughput(
    tmp_path: Path,
) -> None:
    figure = plots.memory_figure(Made(command=(*COMMAND, *["--long-option"] * 20)).run())
    assert figure is not None
    assert figure.get_suptitle() == "Peak memory on CPU, 16 threads: train.py  [measured]"
    write_report(Made(facts=UNSEEN).run(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "memory.png", "memory.svg", "recommendation.csv", "report.md", "trials.csv",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("target", "line"),
    [
        (BY_ROOT, "Learning rate: yours at batch b, x sqrt(26/b), by the sqrt rule."),
        (Target(), "Learning rate: yours at batch b, x 26/b, by the linear rule."),
        (Target(base_batch=13), "Learning rate: yours, x 26/13, by the linear rule."),
        (
            Target(base_batch=13, base_learning_rate=0.1),
            "Learning rate: 2.00e-01, by the linear rule.",
        ),
    ],
)
def test_it_ends_with_the_command_to_train_with(target: Target, line: str) -> None:
    run = Made(target=target).run()
    text, page = terminal.render(run), markdown.render(run, plots=(), snippet=None)
    assert text.endswith(f"\n\n{line}\nTrain with it:\n\n  python train.py --batch-size 26\n")
    assert f"## Train with it\n\n{line}\n\n```sh\npython train.py --batch-size 26\n```\n" in page
    assert "Poly schedule" not in page
    assert "snippet" not in page


@pytest.mark.parametrize(
    ("command", "typed"),
    [
        ("python a.py {batch}", "python a.py 8"),
        ("python a.py {batch} {accumulation} {out}/x", "python a.py 8 2 OUT/x"),
        ("python a.py", "BSPROBE_BATCH=8 BSPROBE_ACCUMULATION=2 python a.py"),
        ("env N={batch} python a.py {accumulation}", "env N=8 python a.py 2"),
        ("sh -c x$BSPROBE_BATCH-{batch}", "BSPROBE_BATCH=8 sh -c 'x$BSPROBE_BATCH-8'"),
    ],
)
def test_numbers_come_to_the_command_by_the_way_that_it_takes_them(
    command: str, typed: str
) -> None:
    run = Made(command=ACCUMULATING, target=replace(BY_ROOT, batch=16)).run()
    assert run.best is not None
    script = Script(command=tuple(command.split()))
    steps = 2 if "{accumulation}" in command or command == "python a.py" else 1
    plan = replace(run.best.plan, micro_batch=8, accumulation_steps=steps)
    assert train_with.command(script, plan) == typed


def test_a_batch_that_needs_accumulation_names_the_place_for_it() -> None:
    lacking = terminal.render(Made(target=SIXTY_FOUR).run())
    assert "needs accumulation" in lacking
    assert "put {accumulation} where" in flat(lacking)
    assert "needs accumulation" not in terminal.render(
        Made(command=ACCUMULATING, target=SIXTY_FOUR).run()
    )


def test_the_rates_of_the_trials_are_noted_and_a_command_that_scales_them_is_told_apart() -> None:
    made = Made()
    run = made.run()
    assert "begin with learning rate 0.001," in terminal.render(run)
    scaled = [
        replace(t, script=replace(INSIDE, learning_rates=(0.001 * t.spec.batch_size,)))
        for t in run.trials
        if t.ran and t.purpose != "recommended"
    ]
    out = [t for t in run.trials if not t.ran]
    text = terminal.render(made.finished([*scaled, *out], run.results[0].boundary))
    assert "another learning rate at each batch (0.001 at 1, 0.028 at 28)" in flat(text)


def test_at_most_five_files_that_the_command_wrote_are_named(accumulating: Run) -> None:
    text = flat(terminal.render(accumulating))
    assert "working directory: last.pt, log.txt, a, b, c and 2 more." in text
    few = Made(facts=replace(INSIDE, wrote=("last.pt",))).run()
    assert "working directory: last.pt. " in flat(terminal.render(few))
    assert "working directory" not in terminal.render(Made().run())


def test_multiples_are_named_where_only_they_were_tried() -> None:
    run = Made(multiple=8).run()
    text, page = terminal.render(run), markdown.render(run, plots=(), snippet=None)
    assert "-> largest 24 (multiples of 8)" in text
    assert "the largest batch that ran is 24, and 32 ran out of memory" in page
    assert "multiples of 8 were tried" in text
    assert "batch 8, 16, 32 ..." in render_plan(run.settings, None, run.device)


def test_where_not_the_first_multiple_fits_a_smaller_one_is_advised() -> None:
    made = Made(multiple=64)
    boundary = Boundary(stop=StopReason.NOTHING_FITS, first_failure=64)
    text = terminal.render(made.finished([made.trial(64)], boundary))
    assert "Not even batch 64 fits. Try a smaller --batch-multiple." in text
    assert "--precision" not in text


def test_a_bug_shows_the_end_of_the_output_in_the_log_as_it_is() -> None:
    made = Made()
    output = "Traceback ...\n```\nValueError: bug"
    bug = failed(made, 4, message="the command ended: ValueError: bug", output=output)
    boundary = Boundary(stop=StopReason.FAILED, largest=2, detail=bug.failure.words)  # type: ignore[union-attr] # it has one
    run = made.finished([made.trial(1), made.trial(2), bug], boundary)
    page = markdown.render(run, plots=(), snippet=None)
    assert f"````text\n{output}\n````" in page
    assert "`the command ended: ValueError: bug`" in page
    assert "Train with it" not in page + terminal.render(run)


def test_an_undecided_trial_names_its_option_and_shows_the_end_of_the_output() -> None:
    made = Made()
    why = "no optimizer step in 120 s; --seconds waits longer"
    late = failed(made, 1, outcome=Outcome.TIMED_OUT, message=why, output="loading")
    run = made.finished([late], Boundary(stop=StopReason.TIME, detail="too long"))
    assert f"No recommendation: batch 1: {why}." in flat(terminal.render(run))
    assert "```text\nloading\n```" in markdown.render(run, plots=(), snippet=None)


def test_steps_are_in_the_log_with_what_they_do_not_count(accumulating: Run) -> None:
    page = markdown.render(accumulating, plots=(), snippet=None)
    assert re.search(r"\| images/s \| steps seen \| took \|", page)
    assert "Steps that a GradScaler skips are not counted." in page
    assert re.search(
        r"^\| train.py \| 1 \| search \| ok \| .* \| 5 \| 3.2 s \|$", page, re.MULTILINE
    )


def test_a_command_has_the_label_of_its_script() -> None:
    variant = Made().variant
    assert labels([variant]) == sentences.row_names([variant]) == {variant: "train.py"}


def test_a_script_with_the_name_of_a_network_gets_no_recipe() -> None:
    text = terminal.render(Made(command=("python", "deeplabv2-x.py", "{batch}")).run())
    assert "For the best batch that fits:" in text
    assert "DeepLabV2" not in text
