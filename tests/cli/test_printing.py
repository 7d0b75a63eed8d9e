"""Printed text: no control characters, any encoding, errors of one line."""

import contextlib
import io
import json
import re
import sys
from pathlib import Path

import pytest

from bsprobe import __main__ as entry
from bsprobe.cli import printing
from bsprobe.records.errors import FileError
from bsprobe.records.printable import shell_word
from bsprobe.report.escaping import json_text, terminal
from tests.support import commands
from tests.support.commands import ROOT, bsprobe
from tests.support.hostile import (
    CONTROL,
    HOSTILE,
    TEXTS,
    commands_in,
)


@pytest.mark.parametrize("text", TEXTS)
def test_errors_and_hints_are_one_line_each(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(**_: object) -> None:
        raise FileError(f"x{text}y", hint=f"x{text}y")

    monkeypatch.setattr("bsprobe.__main__.bsprobe.main", fails)
    assert entry._exit_code() == 2
    said = capsys.readouterr().err
    assert [line.partition(":")[0] for line in said.splitlines()] == ["error", "hint"]
    assert not CONTROL.search(said.replace("\n", ""))
    assert not commands_in(said)


def test_the_traceback_of_a_bug_cannot_act_on_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(**_: object) -> None:
        raise RuntimeError("".join(HOSTILE))

    monkeypatch.setattr("bsprobe.__main__.bsprobe.main", fails)
    assert entry._exit_code() == 101
    said = capsys.readouterr().err
    assert "Traceback (most recent call last):\n" in said
    assert not CONTROL.search(said.replace("\n", ""))
    assert not commands_in(said)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", "latin-1"])
def test_what_the_encoding_of_the_output_lacks_is_escaped(encoding: str) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    with contextlib.redirect_stdout(out):
        printing.show("\u2265 5 \udc9b \ud800 \xb7 \x1b[2J\n\u4e00")
        printing.show_commands("::error::\u2265\n")
    out.flush()
    said = out.buffer.getvalue().decode(encoding)
    assert r"\x9b \ud800" in said
    assert r"\x1b[2J" in said
    assert ("\u2265" in said) is (encoding == "utf-8")
    assert (r"\u2265" in said) is (encoding != "utf-8")


def test_a_path_with_any_bytes_is_an_error_of_one_line(tmp_path: Path) -> None:
    strange = "\udcff\x1b]52;c;eA==\x07\nhint: run `rm -rf`"
    for words in (("report", strange), ("compare", strange, strange, "--format", "github")):
        done = bsprobe(*words, cwd=tmp_path)
        assert done.returncode == 2
        assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["error", "hint"]
        assert not CONTROL.search((done.stderr + done.stdout).replace("\n", ""))


def test_printed_json_is_what_it_was() -> None:
    value = {"x": [*HOSTILE, -3.5, None], "##[error]": True}
    shown = terminal(json_text(value), "ascii")
    assert json.loads(shown) == value
    assert not commands_in(shown)


def test_only_one_module_of_the_command_line_prints() -> None:
    found = [
        path.name
        for path in (ROOT / "bsprobe" / "cli").rglob("*.py")
        if re.search(r"click\.echo|\bprint\(|std(out|err)\.write|secho", path.read_text("utf-8"))
    ]
    assert found == ["printing.py"]


def test_a_word_with_control_characters_is_quoted_for_a_shell() -> None:
    assert shell_word("a b") == "'a b'"
    assert shell_word("it's\n\x1b\\\udcff\u202e") == r"$'it\'s\n\x1b\\\xff\u202e'"


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell closes the streams")
@pytest.mark.parametrize(
    ("closed", "words", "code"),
    [
        (">&-", "gpus RTX3090", 0),
        (">&-", "--help", 0),
        ("2>&-", "report nowhere", 2),
        ("2>/dev/full", "report nowhere", 2),
        ("<&- >&- 2>&-", "report nowhere", 2),
    ],
)
def test_a_closed_or_full_stream_does_not_change_the_exit_code(
    closed: str, words: str, code: int, tmp_path: Path
) -> None:
    done = commands.run("sh", "-c", f"{sys.executable} -m bsprobe {words} {closed}", cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
