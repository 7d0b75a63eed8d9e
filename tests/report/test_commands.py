"""Commands that a report shows to be typed again."""

import re
import shlex
import shutil
import subprocess
from dataclasses import replace

import pytest

from bsprobe.records.runs import Recommendation, Run
from bsprobe.records.scripts import Script
from bsprobe.records.workload import OwnParts
from bsprobe.report.commands import quoted
from bsprobe.report.explain import sentences
from bsprobe.report.run import train_with
from tests.support.hostile_code import TEXTS

BASH = shutil.which("bash") or ""


@pytest.mark.parametrize("text", ["x", "a b", "C:\\new", *TEXTS], ids=ascii)
def test_a_command_of_bsprobe_stays_as_it_was_written(text: str) -> None:
    written = shlex.join(["bsprobe", "run", "--model-arg", f"name={text}"])
    assert quoted(written) == written


def test_a_word_with_escapes_stays_as_it_was_written() -> None:
    for word in (r"$'a\nb'", r"$'it\'s \\'", r"x=$'\x1b]52'"):
        assert quoted(f"bsprobe run {word}") == f"bsprobe run {word}"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("bsprobe run; rm x", ["bsprobe", "run;", "rm", "x"]),
        ("bsprobe run\nrm x", ["bsprobe", "run", "rm", "x"]),
        ("bsprobe $(id) `id` | sh", ["bsprobe", "$(id)", "`id`", "|", "sh"]),
        (r"bsprobe $'a\\'; rm x", ["bsprobe", "$a\\\\;", "rm", "x"]),
        ("bsprobe " + "a" * 5000 + ";", ["bsprobe", "a" * 5000 + ";"]),
        ("bsprobe 'run", ["bsprobe 'run"]),
        ("bsprobe run # \\", ["bsprobe run # \\"]),
    ],
)
def test_another_command_is_one_command_whose_words_are_quoted(
    command: str, words: list[str]
) -> None:
    assert quoted(command) == shlex.join(words)


def words_of(command: str) -> list[str]:
    """Return the words of a command as bash reads them."""
    assert len(command.splitlines()) == 1
    read = f"printf '%s\\0' {command}"
    done = subprocess.run([BASH, "-c", read], capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.skipif(not BASH, reason="bash reads the words")
@pytest.mark.parametrize(
    "text", [text for text in TEXTS if not re.search("[\\x00\\ud800-\\udfff]", text)], ids=ascii
)
def test_a_text_of_a_run_is_one_word_of_a_command(
    run: Run, item: Recommendation, text: str
) -> None:
    script = Script(command=("python", text, "--batch={batch}", text + "{batch}"))
    micro = item.plan.micro_batch
    assert words_of(train_with.command(script, item.plan))[-4:] == [
        "python",
        text,
        f"--batch={micro}",
        f"{text}{micro}",
    ]
    own = OwnParts(model_args=(("name", text),), loss=text)
    changed = replace(item, variant=replace(item.variant, model=text, own=own))
    words = words_of(sentences.command(run, changed))
    assert [words[words.index(option) + 1] for option in ("--model", "--model-arg", "--loss")] == [
        text,
        f"name={text}",
        text,
    ]
