"""Each renderer shows texts from files of others as themselves, whatever they hold.

Every text of a record is replaced by a hostile one. What a renderer makes of it is read by an
independent reader of its format, and has the structure that it has with a harmless text.
"""

import importlib
import inspect
import io
import itertools
import pkgutil
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import matplotlib as mpl
import pytest
from rich.console import Console

from bsprobe import report as reports
from bsprobe.records.errors import FileError
from bsprobe.records.printable import single_line
from bsprobe.records.runs import Run
from bsprobe.report import escaping
from bsprobe.report.compare import comparison, fleet
from bsprobe.report.explain import plots as explain_plots
from bsprobe.report.markdown import fenced, folded, table
from bsprobe.report.progress import Progress
from bsprobe.report.run import markdown, plots, repeats, tables, terminal, trial_log
from bsprobe.report.run.plain import PlainProgress, trial_line
from bsprobe.report.snippet import snippet
from bsprobe.storage.codec import from_json, parse_json, to_text
from bsprobe.study import report as study_reports
from bsprobe.study.report import loader_plot
from tests.support.builders import failure, populated_run
from tests.support.explanations import EXPLANATION
from tests.support.hostile import (
    CONTROL,
    HOSTILE,
    TEXTS,
    cells_of,
    commands_in,
    harmless,
    structure,
    with_text,
    words_of,
)
from tests.support.rendered import Records, compared, drawn, printed, tabulated, written
from tests.support.script_runs import ACCUMULATING, Made
from tests.support.study_builders import FormulaTrainer, made_study, study_settings


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Records:
    new = tmp_path_factory.mktemp
    trainer = FormulaTrainer(holds=4, diverges=lambda spec: spec.seed == 1)
    return Records(
        populated_run(new("run")),
        Made(command=ACCUMULATING).run(),
        made_study(new("study")),
        made_study(new("lost"), study_settings(2, 4, 8), trainer),
    )


PARTS = {(trial_log, "render"), (terminal, "recommendation_table"), (snippet, "render")}
"""Parts of other renderers, and the Python code, which has a test of its own."""
_RENDERER = re.compile(r"render|(?!_|write)\w+_(table|figure)$|figure$|annotations$|markdown$")


def test_every_renderer_is_tried(records: Records) -> None:
    tried = {
        (inspect.getmodule(each), each.__name__)
        for found in (printed, written, tabulated, drawn)
        for each in found(records, "x")
    }
    found = {
        (module, name)
        for module in modules_below(reports, study_reports)
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and inspect.getmodule(value) is module
        and _RENDERER.match(name)
    }
    assert found - tried - PARTS - {(comparison, "annotations")} == set()


def modules_below(*packages: ModuleType) -> list[ModuleType]:
    return [
        importlib.import_module(module.name)
        for package in packages
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_printed_cannot_act_on_the_terminal_nor_on_a_runner(
    records: Records, text: str
) -> None:
    for name, texts in printed(records, text).items():
        for shown in texts:
            assert not CONTROL.search(shown.replace("\n", "")), (name, shown)
            assert not commands_in(escaping.terminal(shown, "utf-8")), (name, shown)
            shown.encode()


def test_a_new_line_in_a_name_adds_no_line(records: Records) -> None:
    for one, two in (
        (printed(records, "x\nmeasured on H100"), printed(records, "x measured on H100")),
        (written(records, "x\n\n# y"), written(records, "x # y")),
    ):
        for name in one.keys() - {fleet.render_text, fleet.render_markdown}:
            # The others have a user's command, which quotes new lines for a shell.
            assert one[name][0] == two[name][0]


@pytest.mark.parametrize("text", HOSTILE)
def test_each_function_for_markdown_shows_a_text(text: str) -> None:
    line, cell, code = escaping.paragraph(text), escaping.inline(text), escaping.code_span(text)
    name, code_cell = escaping.picture_name(text), escaping.code_cell(text)
    for shown, expected in (
        (f"{line}\n\n- {line}\n\n> {line}", "x\n\n- x\n\n> x"),
        (f"# {cell}\n\n- **{cell}**: {cell}\n- {code}: {cell}", "# x\n\n- **x**: x\n- x: x"),
        (f"![{name}](y.png) ![y {name} y](y.png)", "![x](y.png) ![x](y.png)"),
        (table(("y", text), [(text, code_cell)]), table(("y", "x"), [("x", "x")])),
        (folded(text, fenced("", single_line(text))), folded("x", fenced("", "x"))),
    ):
        assert structure(shown) == structure(expected), shown
    if "`" not in text:
        assert words_of(f"# {cell}") == words_of(code).strip() == single_line(text).strip()


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_no_markdown(records: Records, text: str) -> None:
    plain = written(records, harmless(text))
    for name, texts in written(records, text).items():
        for shown, expected in zip(texts, plain[name], strict=True):
            assert structure(shown) == structure(expected), (name, shown)
            assert not CONTROL.search(shown.replace("\n", "")), name
            shown.encode()
    (run, _), _, _, _ = records.of(text)
    heading = markdown.render(run, plots=(), snippet=None).partition("\n")[0]
    if "`" not in text:
        assert words_of(heading).startswith(f"{single_line(text).strip()} on")


@pytest.mark.parametrize("text", TEXTS)
def test_a_cell_of_a_table_is_no_formula(records: Records, text: str) -> None:
    plain = tabulated(records, harmless(text))
    for name, found in tabulated(records, text).items():
        for one, expected in zip(found, plain[name], strict=True):
            rows, others = (cells_of(tables.to_csv(each)) for each in (one, expected))
            assert list(map(len, rows)) == list(map(len, others)), name


def test_numbers_and_options_in_a_table_stay_as_they_are() -> None:
    kept = (-3.5, -2, None, True, "-3.5", "+1e-5", "--checkpointing on", "a=b", "5 x 2", "")
    assert tuple(map(escaping.csv_cell, kept)) == kept
    assert escaping.csv_cell("-3.5+cmd|'x'!A0") == "'-3.5+cmd|'x'!A0"
    assert escaping.csv_cell("--a=cmd|'x'!A0") == "'--a=cmd|'x'!A0"


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_no_workflow_command(records: Records, text: str) -> None:
    runs, _, _, _ = records.of(text)
    plain, _, _, _ = records.of(harmless(text))
    lines, expected = (
        commands_in(comparison.annotations(compared(each))) for each in (runs, plain)
    )
    assert [(line.name, line.properties) for line in lines] == [
        (line.name, line.properties) for line in expected
    ]
    error = commands_in(comparison.error_annotation(FileError(text, hint=text)))
    assert [(line.name, line.properties) for line in error] == [("error", "title=bsprobe")]


def test_a_name_that_looks_like_a_command_stays_readable() -> None:
    shown = escaping.terminal("  ::error::x y\n##[error]z ::ok\n###[group]", "utf-8")
    assert shown == "  \\x3a:error::x y\n#\\x23[error]z ::ok\n##\\x23[group]"


_DRAWN = "_x $\\frac{ $y \x1b\x00\ufffe\ud800 <!-- --> \u4e00 \U0001f600 \x9b\u202e"


def test_pictures_show_any_text_and_print_no_warning(
    records: Records, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    (run, _), _, _, _ = records.of(_DRAWN)
    with mpl.rc_context(plots.STYLE):
        figure = plots.throughput_figure(run)
        assert figure is not None
        plots.write_figure(figure, tmp_path / "throughput")
    assert not recwarn.list
    ET.fromstring((tmp_path / "throughput.svg").read_bytes())  # noqa: S314 - made here


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_all_pictures_show_any_text(records: Records) -> None:
    with mpl.rc_context(plots.STYLE):
        for draw in drawn(records, _DRAWN).values():
            figure = draw()
            assert figure is not None
            figure.savefig(data := io.BytesIO(), format="svg")
            ET.fromstring(data.getvalue())  # noqa: S314 - made here


def test_a_long_name_does_not_push_the_source_out_of_a_picture(records: Records) -> None:
    (run, _), (report, _), (study, _), _ = records.of("W" * 70)
    for figure in (plots.memory_figure(run), explain_plots.kinds_figure(report.explanation)):
        assert figure is not None
        assert figure.get_suptitle().startswith(("[measured]  ", "[predicted]  "))
    loaded = loader_plot.loader_figure(study)
    assert loaded.get_suptitle().endswith("  [measured]")


def test_modules_whose_names_begin_with_an_underscore_are_in_the_legend() -> None:
    figure = explain_plots.modules_figure(with_text(EXPLANATION, "_stem"))
    (legend,) = figure.legends
    assert " _stem" in [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_shows_one_line_without_control_characters(
    records: Records, text: str, *, is_terminal: bool
) -> None:
    (run, _), _, _, _ = records.of(text)
    console = Console(file=io.StringIO(), force_terminal=is_terminal, force_interactive=is_terminal)
    progress = Progress(console, clock=itertools.count(0, 100).__next__)
    for show in (progress.on_stage, progress.log, progress.begin, progress.on_phase, progress.warn):
        show(text)
    for line in (*map(trial_line, run.trials), f"[red]:smile: {text}"):
        progress.log(line)
    kept = list(progress._log)
    progress.erase()
    assert len(kept) == 2 + len(run.trials)
    assert not CONTROL.search("".join(kept))
    if not is_terminal:
        shown = console.file.getvalue()  # type: ignore[attr-defined] # a StringIO
        assert "[red]:smile:" in shown
        assert not CONTROL.search(shown.replace("\n", ""))
        assert not commands_in(shown)
        assert len(shown.splitlines()) == 6 + len(run.trials)


@pytest.mark.parametrize("text", TEXTS)
def test_lines_of_the_library_are_one_line_each(records: Records, text: str) -> None:
    (run, script), _, _, _ = records.of(text)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")
    shown = PlainProgress(run.settings, stream)
    shown.on_opening()
    shown.on_trial(run.trials[-1])
    shown.on_result(run.results[0])
    said = stream.buffer.getvalue().decode()
    assert len(said.split("\n")) == 4
    assert not CONTROL.search(said.replace("\n", ""))
    assert all(
        single_line(line) for line in repeats.warning(script.settings, script.settings.script)
    )


def test_a_record_of_ordinary_texts_is_cleaned_to_itself(records: Records) -> None:
    for record in (*records._known[0], *records._known[1], *records._known[2]):
        assert escaping.cleaned(record) is record


def test_a_traceback_keeps_its_lines_and_nothing_else() -> None:
    why = replace(failure("a\nb"), traceback="a\r\n\tb\x1b\n")
    assert escaping.cleaned(why) == replace(why, message="a b", traceback="a\n    b\\x1b\n")


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_a_file(records: Records, text: str) -> None:
    (run, _), _, _, _ = records.of(text)
    assert from_json(Run, parse_json(to_text(run))) == run


def test_a_command_of_several_lines_is_one_line_that_a_shell_reads() -> None:
    run = Made(command=("bash", "-c", "python a.py\npython train.py {batch}\x1b")).run()
    assert run.best is not None
    words = rf"bash -c $'python a.py\npython train.py {run.best.plan.micro_batch}\x1b'"
    assert terminal.render(run).endswith(f"\n\n  {words}\n")
    assert f"\n```sh\n{words}\n```\n" in markdown.render(run, plots=(), snippet=None)
