import os
import sys
from pathlib import Path

import pytest
from click import Command, Option
from click.testing import CliRunner, Result

from bsprobe.cli.data import data
from bsprobe.cli.sample_data import sample_data
from bsprobe.records.errors import FileError, UsageError
from bsprobe.training.cityscapes.samples import Split, list_split
from tests.support.commands import bsprobe


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change into an empty folder, as the commands write into the current one."""
    monkeypatch.chdir(tmp_path)


def run(command: Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_sample_data_draws_and_names_the_next_command() -> None:
    result = run(sample_data, "streets", "--images", "5", "--size", "32x64", "--seed", "1")
    assert (result.exit_code, result.stderr) == (0, "")
    drawn, following = result.stdout.splitlines()
    assert all(fact in drawn for fact in ("5 images", "32", "64", "4 train", "1 val"))
    assert following == "Next: bsprobe data streets"
    assert len(list_split(Path("streets"), Split.TRAIN).samples) == 4


def test_sample_data_refuses_an_invalid_size() -> None:
    result = run(sample_data, "streets", "--size", "64")
    assert isinstance(result.exception, UsageError)
    assert "'64'" in str(result.exception)
    assert not Path("streets").exists()


@pytest.mark.parametrize("arguments", [("--images", "0"), ("--seed", "-1"), ("--images", "two")])
def test_sample_data_refuses_numbers_out_of_range(arguments: tuple[str, str]) -> None:
    result = run(sample_data, "streets", *arguments)
    assert result.exit_code == 2
    assert f"Invalid value for '{arguments[0]}'" in result.stderr


def test_data_lists_the_contents_of_a_drawn_folder() -> None:
    run(sample_data, "streets", "--images", "5", "--size", "32x64")
    result = run(data, "streets")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[:9] == [
        "streets: 5 usable images",
        "",
        "split  city                           images",
        "train  ahornstadt                          4",
        "val    lindenfurt                          1",
        "",
        "size (high x wide)                    images",
        "32x64                                      5",
        "",
    ]
    assert lines[9] == "id  label                  train id     pixels   images"
    assert lines[-2:] == ["No problems.", "Wrote streets-sample.png"]
    assert max(len(line) for line in lines) <= 80
    assert Path("streets-sample.png").read_bytes().startswith(b"\x89PNG")


def test_data_writes_the_picture_to_the_given_path() -> None:
    run(sample_data, "streets", "--images", "1", "--size", "32x64")
    result = run(data, "streets", "--picture", "seen/one.png")
    assert result.stdout.splitlines()[-1] == "Wrote seen/one.png"
    assert Path("seen/one.png").is_file()
    assert not Path("streets-sample.png").exists()


def test_data_lists_every_problem_and_then_fails_with_their_number() -> None:
    run(sample_data, "streets", "--images", "5", "--size", "32x64")
    samples = list_split(Path("streets"), Split.TRAIN).samples
    samples[0].image_path.unlink()
    samples[1].image_path.write_bytes(b"")
    result = run(data, "streets")
    assert isinstance(result.exception, FileError)
    assert all(fact in str(result.exception) for fact in ("streets", "2 problems", "3 usable"))
    assert result.exception.hint is not None
    assert result.exception.exit_code == 2
    lines = result.stdout.splitlines()
    start = lines.index(str(samples[0].label_path))
    assert [line for line in lines[start:] if not line.startswith("    ")] == [
        "streets/gtFine/train/ahornstadt/ahornstadt_000000_000019_gtFine_labelIds.png",
        "streets/leftImg8bit/train/ahornstadt/ahornstadt_000002_000019_leftImg8bit.png",
        "Wrote streets-sample.png",
    ]
    assert [line[:7] for line in lines[start:]].count("    -> ") == 2
    assert "(leftImg8bit/train/ahornstadt/ahornstadt_000000_000019_leftImg8bit.png)" in " ".join(
        lines[start:]
    )


def test_data_fails_for_a_folder_that_is_not_there() -> None:
    result = run(data, "nowhere")
    assert isinstance(result.exception, FileError)
    assert all(fact in str(result.exception) for fact in ("nowhere", "1 problem", "nothing usable"))
    first, _, named, *_, last = result.stdout.splitlines()
    assert (first, named) == ("nowhere: 0 usable images", "nowhere")
    assert last.startswith("No picture")


@pytest.mark.parametrize("command", [sample_data, data])
def test_every_option_is_explained_with_its_default(command: Command) -> None:
    options = [one for one in command.params if isinstance(one, Option)]
    assert options
    for option in options:
        assert str(option.help).endswith(".")
        assert option.show_default


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes with a path")
def test_a_picture_does_not_replace_a_pipe() -> None:
    run(sample_data, "streets", "--images", "1", "--size", "32x64")
    os.mkfifo("pipe")
    result = bsprobe("data", "streets", "--picture", "pipe")
    assert result.returncode == 2
    assert result.stderr.startswith("error: pipe is not a regular file\nhint: ")
    assert Path("pipe").is_fifo()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("data", "streets", "--picture", ""), "--picture"),
        (("data", ""), "ROOT"),
        (("sample-data", ""), "DIR"),
        (("report", ""), "RUN"),
        (("report", "r", "--out", ""), "--out"),
        (("compare", "", "r"), "BASELINE"),
        (("compare", "r", ""), "RUN"),
        (("ci", "--baseline", ""), "--baseline"),
        (("run", "--out", ""), "--out"),
        (("run", "--data", ""), "--data"),
        (("study", "--weights", ""), "--weights"),
        (("explain", "--out", ""), "--out"),
        (("gpus", "--out", ""), "--out"),
    ],
)
def test_an_empty_path_is_refused_by_the_name_of_its_option(
    words: tuple[str, ...], name: str
) -> None:
    result = bsprobe(*words)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"error: {name} is empty\nhint: give a path; . is the current folder\n"
    assert list(Path().iterdir()) == []
